"""Every built-in architecture's presets: small runs that its own Config accepts."""

from __future__ import annotations

import copy

import pytest
import torch

from fastgan import data, ops, registry
from fastgan.bench.preset import example
from fastgan.cli import main
from fastgan.training.preset import get_preset, prepare

from .walk import batches_of, walk

BUILT_IN = [name for name in registry.list_architectures() if registry.get(name).__module__.startswith("fastgan.")]
PRESETS = [(name, preset) for name in BUILT_IN for preset in registry.get(name).presets]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_architecture_trains_on_scenes_and_on_real_data(name):
    presets = registry.get(name).presets
    assert "scenes" in presets
    assert {preset.data.partition("?")[0] for preset in presets.values()} & {"fashion_mnist", "cifar10", "mnist_5k"}


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_names_data_and_options_that_exist(name, preset):
    cls = registry.get(name)
    chosen = get_preset(cls, preset)
    assert chosen.data.partition("?")[0] in data.QUERIES
    config = registry.configure(cls, dict(chosen.model))
    points = chosen.data.startswith("gaussians")  # 1 px, whatever is asked
    assert points or config.image_size <= 32
    assert chosen.steps >= 1
    assert chosen.batch_size is None or chosen.batch_size >= 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_preset_on_scenes_fits_the_scenes(name):
    cls = registry.get(name)
    chosen = get_preset(cls, "scenes")
    architecture, scenes = prepare(cls, chosen.data, chosen.model, seed=0, size=600)
    assert architecture.config.image_size == scenes.image_size
    assert architecture.config.channels == scenes.channels
    if hasattr(architecture.config, "num_classes") and "label" in (*cls.needs, *cls.conditions):
        assert architecture.config.num_classes == len(scenes.classes)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_two_steps_with_kernels_are_two_steps_without(name, preset):
    """In float64, where nothing but a difference of the formulas is left; float32 is held by the preset benchmarks."""
    cls = registry.get(name)
    options, batch = example(cls, get_preset(cls, preset), batch_size=6)
    moved = []
    for implementation in ("reference", "auto"):
        torch.manual_seed(0)
        model = registry.create(name, fuse=implementation == "auto", **options).double()
        model.to(memory_format=torch.channels_last)
        before = copy.deepcopy(model.state_dict())
        with ops.use(implementation):
            walk(model, batches_of(batch.to(torch.float64)), 2)
        moved.append({key: value - before[key] for key, value in model.state_dict().items()})
    for network in (name for name, module in model.named_children() if module.state_dict()):
        expected, got = (torch.cat([v.flatten() for k, v in m.items() if k.startswith(f"{network}.")]) for m in moved)
        assert expected.norm() > 0, f"{network} was not trained"
        assert (got - expected).norm() < 1e-6 * expected.norm(), network


def test_the_command_line_overrides_a_preset(tmp_path, capsys):
    options = ["--preset", "scenes", "--model.ngf", "4", "--model.ndf", "4", "--limit", "40", "--batch-size", "20"]
    assert main(["train", "dcgan", *options, "--out", str(tmp_path / "run"), "--dry-run", "--metric", "none"]) == 0
    out = capsys.readouterr().out
    assert "scenes: 40 images" in out and "3x32x32" in out, "the preset's data and size"
    assert f"{registry.get('dcgan').presets['scenes'].steps} steps of 20 images" in out


def test_an_unknown_preset_is_named_with_the_nearest(capsys):
    for arguments in (["--preset", "scene"], ["--preset=scene"]):
        assert main(["train", "dcgan", *arguments]) == 2
        assert "dcgan has no preset 'scene'; did you mean 'scenes'?" in capsys.readouterr().err
