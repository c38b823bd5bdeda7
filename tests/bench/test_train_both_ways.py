"""benchmarks/train_both_ways.py: a whole comparison on a tiny preset, its checks and its verdict."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path

import numerics
import pytest
import torch

from fastgan.ops import _library

FILE = Path(__file__).parents[2] / "benchmarks" / "train_both_ways.py"
SEEDS = [0, 1]
TINY = {"image_size": 16, "width": 16, "batch_size": 8, "images": 32, "metric_images": 32}


@pytest.fixture(scope="module")
def both_ways():
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    module = sys.modules[FILE.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[FILE.stem]


def curves(*last: float, first: float = 20.0) -> list[list[tuple[int, float]]]:
    """One curve a value, which falls to it and stays."""
    return [[(0, first)] + [(step, value) for step in range(1, 8)] for value in last]


def command_line(**options: object) -> list[str]:
    words = []
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words


@pytest.fixture
def winograd(kernels) -> None:
    if _library.C.cpu_capability() == "DEFAULT":
        pytest.skip("DEFAULT has no Winograd that pays")


def test_the_bound_of_first_losses_is_winograds(both_ways):
    assert numerics.WINOGRAD_MAX[2] == both_ways.FIRST_LOSSES


@pytest.mark.parametrize(
    ("kernels", "reference", "same"),
    [
        (curves(0.5, 0.6, 0.7), curves(0.4, 0.6, 0.75), True),
        (curves(1.5, 1.6, 1.7), curves(0.5, 0.6, 0.7), False),
        (curves(0.1, 0.1, 0.1), curves(0.5, 0.6, 0.7), False),  # better is not the same either
        (curves(0.1, 2.9, 3.0), curves(0.5, 0.6, 0.7), False),  # a wild way earns no wider bound
        (curves(19.0, 20.0, 21.0), curves(19.0, 20.0, 21.0), False),  # nothing was learnt
    ],
)
def test_verdict(both_ways, kernels, reference, same):
    assert both_ways.verdict(kernels, reference)["same"] is same


def test_a_run_is_its_last_measurements(both_ways):
    swinging = [(step, float(value)) for step, value in enumerate((20, 9, 1, 2, 3, 4, 5))]
    assert both_ways.summary([swinging, swinging]) == {"results": [3.0, 3.0], "mean": 3.0, "deviation": 0.0}


def test_comparison(both_ways, winograd, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture: pip install 'fastgan[plots]'")
    options = {"seeds": SEEDS, "steps": 6, "every": 2, "runs": tmp_path / "runs", "out": tmp_path / "out"} | TINY
    arguments = command_line(**options)
    both_ways.main(arguments)
    (file,), (picture,) = (tmp_path / "out").glob("*-both-ways.json"), (tmp_path / "out").glob("*-both-ways.png")
    assert 10_000 < picture.stat().st_size < 200_000
    result = json.loads(file.read_text())
    assert result["metric"] == {"name": "fid[random_conv_v1]", "images": 32, "lower_is_better": True}
    assert result["options"]["steps"] == 6 and result["environment"]["torch"] == torch.__version__
    assert result["rule"] == both_ways.RULE and result["rule"] in capsys.readouterr().out

    runs = {(run["way"], run["seed"]): run for run in result["runs"]}
    assert list(runs) == [(way, seed) for seed in SEEDS for way in both_ways.WAYS]
    for (way, seed), run in runs.items():
        full = way != "reference-nchw"
        assert [step for step, _ in run["curve"]] == ([0, 2, 4, 6] if full else [])
        assert len(run["discriminator_losses"]) == 6 and run["wall_seconds"] > 0
        assert (tmp_path / "runs" / f"{way}-{seed}.png").exists()
        hidden = [run["layers"][name] for name in ("generator.layers.3", "discriminator.layers.2")]
        expected = "winograd" if way == "kernels" else "reference"
        assert all(found.endswith(expected) for found in hidden)
        assert bool(run["workspace_bytes"]) is (way == "kernels")
    for seed in SEEDS:
        for other in ("kernels", "reference-nchw"):
            for name in both_ways.FIRST:
                losses = [torch.tensor(runs[way, seed]["first_losses"][name]) for way in (other, "reference")]
                numerics.assert_rounding_equal(*losses, name)

    monkeypatch.setattr(both_ways, "train", None)  # what has run is not run again
    both_ways.main(arguments)
    assert json.loads(file.read_text()) == result
    with pytest.raises(SystemExit):
        both_ways.main(command_line(**options | {"width": 32}))
    assert "is a run with other options" in capsys.readouterr().err


def test_unequal_runs_are_refused(both_ways, winograd, tmp_path):
    options = both_ways.Options(**TINY, steps=1)
    with_kernels, without = (both_ways.train(options, way, 0, tmp_path) for way in ("kernels", "reference"))
    assert set(both_ways.check_pair(with_kernels, without)["first_losses_apart"]) >= set(both_ways.FIRST)
    other = both_ways.train(options, "reference", 1, tmp_path)
    with pytest.raises(ValueError, match="first_weights is"):
        both_ways.check_pair(with_kernels, other)
    with pytest.raises(ValueError, match="the kernels did not run where they should"):
        both_ways.check_pair(without, without)
    off = copy.deepcopy(with_kernels)
    off["first_losses"]["discriminator/p_fake"] *= 1 + 2e-5
    with pytest.raises(ValueError, match="differ by more than 1e-05"):
        both_ways.check_pair(off, without)


def test_hidden_layers_by_other_means_are_refused(both_ways):
    gan = both_ways.registry.create(both_ways.ARCHITECTURE, image_size=16, ngf=16, ndf=16)
    found = {"generator.layers.0": "kernel CPU AVX512: matmul", "generator.layers.3": "kernel CPU AVX512: winograd"}
    both_ways.check_hidden_layers(gan, found, "winograd")
    with pytest.raises(ValueError, match=r"generator.layers.3 is computed by '.*winograd, aten', not by winograd"):
        both_ways.check_hidden_layers(
            gan, found | {"generator.layers.3": "kernel CPU AVX512: winograd, aten"}, "winograd"
        )
