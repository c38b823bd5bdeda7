"""What runs on a GPU beside the benchmarks: the checks themselves, tried on the CPU; counters; what is owed."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastgan.bench import report
from fastgan.ops import _dispatch

from .test_floor import gpu_row

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu_check():
    return load("gpu_check")


@pytest.fixture(scope="module")
def owed():
    return load("owed")


@pytest.fixture
def checked(gpu_check, tmp_path, kernels, monkeypatch):
    """checked(*words) -> (exit status, the file written)."""
    monkeypatch.setenv("FASTGAN_CACHE", "")  # the checks set it: put back at the end

    def run(*words: str):
        out = tmp_path / "x-check.json"
        only = ["--only", *words] if words else []
        return gpu_check.main(["--device", "cpu", "--out", str(out), *only]), json.loads(out.read_text())

    yield run
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True


def test_the_checks_pass_where_the_kernels_are_known_to_be_right(checked, gpu_check):
    status, found = checked()
    assert status == 0 and found["complete"] and list(found["checks"]) == list(gpu_check.CHECKS)
    assert found["environment"]["torch"] == torch.__version__
    assert sum(len(cases) for cases in found["checks"].values()) > 300
    assert found["checks"]["in_a_graph"]["all"].startswith("skipped: ")
    layers = found["checks"]["convolutions"]
    assert layers["G 100->512 @1, batch 3, bfloat16, by matmul, train"] is None
    assert layers["G 100->512 @1, batch 3, bfloat16, by thin: output"] == "skipped: does not cover"


def test_a_wrong_kernel_fails_its_check(checked, gpu_check, monkeypatch):
    honest = gpu_check.test_bn_act.bn_stats
    monkeypatch.setattr(gpu_check.test_bn_act, "bn_stats", lambda z: (honest(z)[0], honest(z)[1] * (1 + 1e-5)))
    status, found = checked("bn_stats")
    assert status == 1 and not found["complete"]
    assert any("var: L2 error" in (text or "") for text in found["checks"]["bn_stats"].values())


@pytest.mark.parametrize("tf32", [False, True])
def test_a_wrong_or_unsteady_layer_fails(gpu_check, monkeypatch, tf32):
    cases = gpu_check.conv_cases
    case = cases.Case(n=2, c_in=8, c_out=8, kernel=4, stride=2, size=(8, 8), layout="channels_last")
    arguments = case, case.inputs(), cases.cotangent_of(case, "channels_last"), tf32
    assert gpu_check.failure(gpu_check.check_layer, *arguments) is None
    honest, runs = cases.results, []

    def results_off_by(error: float, first_run: int):
        def results(*arguments):
            runs.append(None)
            result, grads = honest(*arguments)
            return result, grads | {"weight": grads["weight"] * (1 + error * (len(runs) >= first_run))}

        runs.clear()
        return results

    monkeypatch.setattr(cases, "results", results_off_by(4e-3, 1))
    assert "gradient of weight: L2 error" in gpu_check.failure(gpu_check.check_layer, *arguments)
    monkeypatch.setattr(cases, "results", results_off_by(1e-6, 3))
    assert gpu_check.failure(gpu_check.check_layer, *arguments) == "differs between two runs"


def test_what_covers_a_layer_is_read_from_the_trials(gpu_check, monkeypatch, kernels):
    gpu = SimpleNamespace(type="cuda", index=0)
    trials = {"conv2d batch_norm, float32, x 1x8x4x4 nhwc": ("aten", {"sm80": float("inf"), "aten": 1.0})}
    monkeypatch.setattr(gpu_check._library.C, "convolution_choices", lambda device: dict(trials))
    monkeypatch.setattr(gpu_check.conv_cases, "results", lambda *_: trials.update(new))
    new = {"conv2d weight_gradient, tf32, x 1x8x4x4 nhwc": ("aten", {"sm90a": float("inf"), "aten": 1.0})}
    found = gpu_check.products_by_kernel(gpu, [None], [(None, None)])
    assert found == {"sm90a": {"weight_gradient"}, "aten": {"weight_gradient"}}


def test_a_check_that_stops_hides_no_other(checked, gpu_check, monkeypatch):
    def stops(device):
        yield "first", None
        raise RuntimeError("no such stream")

    monkeypatch.setitem(gpu_check.CHECKS, "clip_weights", stops)
    status, found = checked("clip_weights", "rmsprop")
    assert status == 1 and found["checks"]["clip_weights"]["(stopped)"] == "RuntimeError: no such stream"
    assert set(found["checks"]["rmsprop_clip"].values()) == {None}


def test_refusals(gpu_check):
    def raises(text):
        def call():
            raise RuntimeError(text)

        return call

    assert gpu_check._refusal(raises("CUDA out of memory. Tried to allocate 2 GiB"), "memory") is None
    assert "in these words" in gpu_check._refusal(raises("API call failed at ops.h, line 46"), "memory")
    assert gpu_check._refusal(lambda: None, "memory") == "was not refused"


def test_without_a_gpu_nothing_is_claimed(gpu_check, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_check.main([]) == 2 and "gpu_check: no GPU" in capsys.readouterr().out


def test_counters_as_a_table():
    gpu_counters = load("gpu_counters")
    long, wait = (f"smsp__average_warps_issue_stalled_{r}_per_issue_active.ratio" for r in ("long_scoreboard", "wait"))
    metrics = ["ID", "Kernel Name", "Grid Size", *gpu_counters.METRICS.values(), wait, long]
    units = ["", "", "", "us", "%", "Mbyte", "Mbyte", "%", "register/thread", "inst", "inst"]
    kernel = [
        "0",
        "void fastgan::cuda::bn_act<float>(Params)",
        "(132, 1, 1)",
        "21.5",
        "88.2",
        "16.8",
        "16.7",
        "71",
        "40",
    ]
    rows = [metrics, units, [*kernel, "1.25", "9.5"]]
    page = ["==PROF== Connected", *(",".join(f'"{value}"' for value in row) for row in rows)]
    header, line = gpu_counters.table(page)
    assert header.startswith("kernel") and line.startswith("fastgan::cuda::bn_act<float> ")
    assert "88.2 %" in line and "21.5 us" in line and line.endswith("  long_scoreboard 9.50, wait 1.25")
    assert gpu_counters.table(["==ERROR== no permission"]) == ["no kernel was profiled"]


def check_file(folder: Path, capability=(9, 0), commit="abc", changes=False, complete=True, text=None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"commit": commit, "uncommitted_changes": changes, "gpu_capability": capability and list(capability)}
    content = {"environment": facts, "complete": complete, "checks": {"bn_stats": {"a": None, "b": text}}}
    (folder / "2026-01-01-abc-check.json").write_text(json.dumps(content))


def test_what_verifies_a_gpu(owed, tmp_path):
    folder = tmp_path / "nvidia-h200"
    check_file(folder, text="skipped: one GPU here")
    assert list(owed.verified(tmp_path)) == [(9, 0)]
    for bad in ({"text": "wrong"}, {"complete": False}, {"commit": None}, {"changes": True}, {"capability": None}):
        check_file(folder, **bad)
        assert not owed.verified(tmp_path), bad


def test_every_entry_of_verified_cuda_has_its_file(owed):
    assert set(owed.verified(owed.RESULTS)) >= _dispatch.VERIFIED_CUDA


def test_owed_until_measured(owed, tmp_path):
    first = owed.owed(tmp_path)
    assert first[0] == "every check of gpu_check.py, passed"
    step = "step dcgan 64 px, batch 128"
    assert f"{step}: bfloat16, tf32, float32 (goal 5x eager, 1.5x the strongest PyTorch)" in first
    assert f"{step}, beside torch.compile: bfloat16, tf32" in first
    assert "layers of DCGAN, batch 256: 40 in bfloat16" in first
    check_file(tmp_path / "nvidia-h200")
    case = next(c for c in owed.bench.all_cases("cuda") if str(c) == step)
    row = gpu_row(case, {"eager": 5e-3, "compile channels_last + graph": 2e-3, "fastgan + graph": 1e-3})
    facts = report.environment(torch.device("cpu"))
    report.write(tmp_path / "nvidia-h200" / "2026-01-01-abc-bench-steps-bfloat16.json", facts, [row])
    then = owed.owed(tmp_path)
    assert any(line.startswith(f"{step}: tf32, float32") for line in then) and first[0] not in then
    assert f"{step}, beside torch.compile: tf32" in then


def test_the_readme_lists_what_is_owed(owed, capsys):
    owed.main([])
    readme = (BENCHMARKS / "README.md").read_text()
    (block,) = re.findall(r"<!-- python benchmarks/owed.py -->\n\n(.*?)\n\n<!-- end -->", readme, re.DOTALL)
    assert block.strip() == capsys.readouterr().out.strip(), "run: python benchmarks/owed.py"
