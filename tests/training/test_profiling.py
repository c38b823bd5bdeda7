"""The profile of training steps: sums of hand-made events, and what is found in a real run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

import fastgan
from fastgan.training.profiling import DATA, PHASE, WARM_UP, Timeline, covered, kind_of, profile_training

from .stubs import Images, TinyGAN


def event(
    name: str,
    start: float,
    end: float,
    parent: SimpleNamespace | None = None,
    device_time: float = 0.0,
    cuda: bool = False,
) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start),
        cpu_parent=parent,
        device_type=DeviceType.CUDA if cuda else DeviceType.CPU,
        device_time_total=device_time,
        is_user_annotation=False,
    )


def step() -> list[SimpleNamespace]:
    """A phase of 60 us with a wait of 10, a convolution of 20 and a step of 5; a phase of 30; an average of 4."""
    first, second = event(PHASE + "critic", 0, 60), event(PHASE + "painter", 60, 90)
    wait = event(DATA, 0, 10, first)
    fused = event("fastgan::conv2d_bn_act", 15, 35, first, device_time=30)
    node = event("autograd::engine::evaluate_function: X", 38, 48, first)
    optimizer = event("Optimizer.step#Adam.step", 50, 58, first)
    return [
        first, second, wait, fused, node, optimizer,
        event("aten::stack", 2, 9, wait),
        event("aten::convolution", 16, 34, fused, device_time=30),
        event("aten::mul", 40, 46, node, device_time=2),
        event("aten::_fused_adam_", 51, 56, optimizer, device_time=4),
        event("aten::relu", 62, 82, second),
        event("aten::lerp_", 92, 96),
    ]  # fmt: skip


def test_on_the_cpu_operators_are_the_work() -> None:
    timeline = Timeline(step(), on_device=False)
    assert (timeline.busy, timeline.data) == (20 + 6 + 5 + 20 + 4, 10)
    phases = {part.name: (part.total, part.busy, part.data) for part in timeline.phases(100)}
    assert phases == {"critic": (60, 31, 10), "painter": (30, 20, 0), "averages and the rest": (10, 4, 0)}
    kinds = {part.name: part.total for part in timeline.kinds(100)}
    assert kinds == {
        "convolution, fused with its neighbours": 20,
        "activation": 20,
        "other operators": 10,
        "optimiser": 5,
        "data": 10,
        "outside operators": 35,
    }
    assert sum(kinds.values()) == 100


def test_on_a_device_kernels_are_the_work() -> None:
    kernels = [event("conv", 20, 50, cuda=True), event("mul", 45, 60, cuda=True), event("adam", 70, 74, cuda=True)]
    timeline = Timeline([*step(), *kernels], on_device=True)
    assert timeline.busy == 40 + 4
    kinds = {part.name: part.total for part in timeline.kinds(100)}
    assert kinds["convolution, fused with its neighbours"] == 30 and kinds["optimiser"] == 4
    assert kinds["no kernel running"] == 100 - 44 and "data" not in kinds
    assert timeline.phases(100)[0].busy == 30 + 2 + 4


def test_covered_counts_what_overlaps_once() -> None:
    assert covered([(5, 7), (0, 4), (1, 2), (3, 6)]) == 7
    assert covered([]) == 0


@pytest.mark.parametrize(
    ("operator", "around", "kind"),
    [
        ("aten::convolution_backward", ["ConvolutionBackward0"], "convolution"),
        ("fastgan::conv_transpose2d_bn_act_backward", ["EagerBackward"], "convolution, fused with its neighbours"),
        ("fastgan::convolution", ["_AnalyticPenalty"], "penalty"),
        ("fastgan::penalty", [], "penalty"),
        ("aten::mm", ["Optimizer.step#Muon.step"], "optimiser"),
        ("aten::native_batch_norm", [], "batch norm"),
        ("aten::addmm", [], "linear"),
        ("aten::tanh_backward", [], "activation"),
        ("aten::lerp_", [], "other operators"),
    ],
)
def test_kinds(operator: str, around: list[str], kind: str) -> None:
    assert kind_of(operator, around) == kind


def test_a_dcgan_by_layer_phase_and_kind(tmp_path: Path) -> None:
    gan = fastgan.create("dcgan", image_size=16, channels=1, ngf=4, ndf=4)
    trace = tmp_path / "new" / "trace.json"
    found = profile_training(gan, Images(20, 16), 2, trace, batch_size=8, device="cpu")
    assert [part.name for part in found.phases] == ["discriminator", "generator", "averages and the rest"]
    assert sum(part.total for part in found.phases) == pytest.approx(found.total)
    assert sum(part.total for part in found.kinds) == pytest.approx(found.total)
    assert 0 < found.busy_share < 1 and 0 < found.data < found.phases[0].total and found.phases[1].data == 0
    kinds = [part.name for part in found.kinds]
    assert any(kind.startswith("convolution") for kind in kinds) and {"optimiser", "data"} <= set(kinds)
    layers = {layer.name: layer for layer in found.layers}
    assert layers["generator.layers.0"].fusion == "layers.0 + layers.1 + layers.2"
    assert layers["discriminator.layers.5"].fusion.split(":")[0] in ("alone", "no")
    assert "did not run" not in {layer.implementation for layer in found.layers}
    assert json.loads(trace.read_text())["traceEvents"]
    table = str(found).split("\n\n")[2].splitlines()
    assert len(table) == len(kinds) + 1 and len({len(line) for line in table}) == 1


def test_the_penalty_and_what_is_not_fused_are_told() -> None:
    gan = fastgan.create("wgan_gp", image_size=16, channels=1, ngf=4, ndf=4)
    found = profile_training(gan, Images(20, 16), 1, batch_size=4, device="cpu", fuse=False)
    assert "penalty" in [part.name for part in found.kinds]
    assert {layer.fusion for layer in found.layers} == {"no: fuse is off"}
    assert {layer.implementation for layer in found.layers if layer.name.startswith("generator")} == {"aten"}


def test_what_cannot_be_profiled() -> None:
    with pytest.raises(ValueError, match="steps is 0; it takes a whole number from 1"):
        profile_training(TinyGAN(), Images(20), 0)

    class Short(TinyGAN):
        def stages(self) -> list:
            return super().stages()[:1]  # of 7 steps

    with pytest.raises(ValueError, match=f"the run is over after 7 steps, fewer than the {WARM_UP + 6} to profile"):
        profile_training(Short(), Images(20), 3, device="cpu")
    assert not torch.autograd._profiler_enabled()  # none is left running
