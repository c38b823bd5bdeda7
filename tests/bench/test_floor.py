"""Bytes and operations against counts by hand and by torch; ceilings and floors in a row and its table."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from fastgan import bench
from fastgan.bench import ceilings, floor, report, shapes
from fastgan.bench.__main__ import main
from fastgan.bench.ceilings import Ceilings
from fastgan.bench.floor import Network, Work
from fastgan.bench.passes import PASSES
from fastgan.bench.step import StepCase
from fastgan.bench.timer import Timing

from .tiny import CASES, LAYERS, PASS_CASES

CUDA = torch.device("cuda")


def test_bytes_of_passes():
    # by hand: 2 * 3 * 4 * 5 elements; z and y of two bytes each
    assert floor.bytes_of("bn_act", [(2, 3, 4, 5)], torch.bfloat16) == 2 * 120 * 2
    # two parameters of 12 and 5 elements: weight and average read and written, gradient read
    assert floor.bytes_of("rmsprop_clip_", [(3, 4), (5,)], torch.float32) == 5 * 17 * 4
    assert set(PASSES) <= set(floor.PASSES)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_operations_of_a_layer_are_those_torch_counts(layer):
    kind = nn.ConvTranspose2d if layer.transposed else nn.Conv2d
    conv = kind(layer.c_in, layer.c_out, layer.kernel_size, layer.stride, layer.padding, device="meta")
    x = torch.empty(3, layer.c_in, layer.size, layer.size, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = conv(x)
    assert floor.layer_work(layer, 3, "forward", torch.float32).flops == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        y.backward(torch.empty_like(y))
    assert floor.layer_work(layer, 3, "backward", torch.float32).flops == backward.get_total_flops()


def test_bytes_of_a_layer():
    layer = shapes.DISCRIMINATOR[1]  # 64 -> 128 channels, 32 -> 16 px, with BatchNorm
    x, y, weight = 2 * 64 * 32**2, 2 * 128 * 16**2, 64 * 128 * 16
    assert floor.layer_work(layer, 2, "eval", torch.float32).bytes == 4 * (x + weight + y)
    assert floor.layer_work(layer, 2, "forward", torch.float32).bytes == 4 * (x + weight + 3 * y)
    assert floor.layer_work(layer, 2, "backward", torch.float32).bytes == 4 * (2 * x + 2 * weight + 2 * y)


def test_a_network_is_counted_without_being_run():
    net = nn.Sequential(nn.Conv2d(3, 4, 2, 2, bias=False), nn.ReLU(), nn.Conv2d(4, 1, 2, bias=False))
    first, second = 2 * 5 * 3 * 4 * 4 * 4, 2 * 5 * 4 * 4 * 1  # batch 5, 4x4 images to 2x2 to 1x1
    counted = Network.of(net, 5, 3, 4, 4)
    assert counted == Network(first + second, first, 5 * 4 * 4 + 5, ((4, 3, 2, 2), (1, 4, 2, 2)))
    assert all(p.device.type == "cpu" for p in net.parameters())
    trained = counted.forward_and_backward(torch.float32)
    assert trained.flops == 3 * (first + second) - first  # nobody wants the gradient of the images
    assert counted.forward_and_backward(torch.float32, weights=False, inputs=True).flops == 2 * (first + second)
    assert counted.update("adam").bytes == 4 * (48 + 16) * 8


@pytest.mark.parametrize("architecture", ["dcgan (Trainer)", "wgan critic"])
def test_operations_of_a_step_are_those_of_its_loop(architecture):
    """torch counts what the frozen critic and the first layers save as well."""
    case = StepCase(architecture, batch_size=4, image_size=16, width=8)
    step = case.setup("fastgan", torch.float32, torch.device("cpu")).modes["step"]
    with bench.ops.use("reference"), FlopCounterMode(display=False) as counter:
        step()
    assert case.work("step", torch.float32).flops == counter.get_total_flops()


class Operations(TorchDispatchMode):
    """FlopCounterMode without its modules, whose hooks autograd.grad refuses."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.flops += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def test_operations_of_a_penalty_are_those_of_the_analytic_path():
    case = next(c for c in CASES if c.op == "gradient_penalty")
    critic, (real, fake, epsilon) = case._critic(torch.device("cpu"), False), case._inputs()
    counted = {}
    for method in ("analytic", "autograd"):
        with bench.ops.use("reference"), Operations() as counter:
            value = bench.ops.gradient_penalty(critic, real, fake, epsilon=epsilon, method=method)
            torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)
        counted[method] = counter.flops
    assert case.work("both", torch.float32).flops == counted["analytic"] < counted["autograd"]


def test_the_floor_is_the_longer_part():
    rates = Ceilings(bytes_per_s=1e9, flops_per_s=1e12)
    assert (rates.floor_s(Work(10**9, 10**12 // 2)), rates.bound_by(Work(10**9, 10**12 // 2))) == (1.0, "bytes")
    assert (rates.floor_s(Work(10**8, 10**12)), rates.bound_by(Work(10**8, 10**12))) == (1.0, "flops")


def test_ceilings_are_measured(monkeypatch):
    monkeypatch.setattr(
        ceilings, "SETTINGS", bench.timer.Settings(rounds=2, warmup=1, budget_s=0.1, least_sample_s=0.0)
    )
    found = ceilings.measure(torch.device("cpu"), torch.float32, copied=2**22, width=64)
    assert 1e8 < found.bytes_per_s < 1e13 and 1e7 < found.flops_per_s < 1e15


def gpu_row(case, seconds: dict[str, float], mode: str = "step") -> report.Row:
    timing = Timing({p: [s] * 3 for p, s in seconds.items()}, dict.fromkeys(seconds, 1), 0, False)
    rates = Ceilings(4e12, 4e14)
    made = report.Floor.of(case.work(mode, torch.bfloat16), rates)
    return report.row(case, mode, "bfloat16", CUDA, timing, dict.fromkeys(seconds, "kernel CUDA sm_90"), made)


def test_goals_of_a_step_on_a_gpu():
    case = StepCase("dcgan", 128)
    times = {"eager": 5e-3, "eager channels_last": 4e-3, "compile + graph": 1.6e-3, "fastgan": 3e-3}
    row = gpu_row(case, times | {"fastgan + graph": 1e-3})
    assert (row.ours, row.strongest, row.bar) == ("fastgan + graph", "compile + graph", 1.5)
    assert row.against == pytest.approx({"eager": 5.0, "strongest": 1.6}) and not row.missed and row.passed
    slower = gpu_row(case, times | {"fastgan + graph": 2e-3})
    assert slower.missed == ["eager 2.50 of 5", "strongest 0.80 of 1.5"] and not slower.passed
    assert "MISSED: eager 2.50 of 5" in report.format_row(slower)
    assert f"floor {case.work('step', torch.bfloat16).flops / 4e14 * 1e3:.3g} ms (flops)" in report.format_row(row)


def test_a_copy_is_neither_side_but_a_goal():
    case = PASS_CASES[0]
    row = gpu_row(
        case, {"eager": 3e-3, "copy": 1.1e-3, "copy + graph": 0.8e-3, "fastgan": 2e-3, "fastgan + graph": 1e-3}
    )
    assert row.strongest == "eager" and row.against["copy"] == pytest.approx(0.8)
    assert row.missed == ["copy 0.80 of 0.85"]
    # without that row's copy, the goal cannot be judged, and is not
    assert gpu_row(case, {"eager": 3e-3, "fastgan": 2e-3}).goals == {}


def test_the_table_and_its_files(tmp_path, capsys):
    row = gpu_row(StepCase("dcgan", 128), {"eager": 5e-3, "fastgan": 1e-3, "fastgan + graph": 0.5e-3})
    facts = report.environment(torch.device("cpu")) | {"gpu": "NVIDIA H200", "commit": "abc"}
    report.write(tmp_path / "a.json", facts, [row], {"step dcgan: compile": "RuntimeError: no"})
    report.write(tmp_path / "b.json", facts, [dataclasses.replace(row, dtype="tf32")])
    assert report.read(tmp_path / "a.json") == (facts, [row])
    assert main(["--table", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("NVIDIA H200, commit abc") and len(lines) == 6
    cells = [line.split(" | ") for line in lines[2:]]
    assert len({len(c) for c in cells if len(c) > 1}) == 1
    assert "10.00 (goal 5.00)" in lines[4] and "tf32" in lines[5]


def test_tf32_is_a_gpu_s(monkeypatch):
    with pytest.raises(ValueError, match="dtype is 'tf32', which only GPUs compute in"):
        bench.run(dtype="tf32")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    for dtype, tf32 in (("float32", False), ("tf32", True)):
        with bench._precision(dtype):
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
            assert torch.backends.cudnn.benchmark
    after = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    assert before == after
