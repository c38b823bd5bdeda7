"""What a GPU is given to do, run on the CPU: every provider of its list, in sets, and captured with a stand-in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fastgan import bench
from fastgan.bench import equality, workloads
from fastgan.bench.case import COPY, GRAPH, Workload, base_of, is_graphed, is_ours, layout_of
from fastgan.bench.ceilings import Ceilings
from fastgan.bench.clip_weights import ClipWeightsCase
from fastgan.bench.step import StepCase

from .tiny import CASES, PASS_CASES, SETTINGS

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STEP = StepCase("dcgan", batch_size=8, image_size=16, width=8)


def test_names():
    provider = "eager channels_last" + GRAPH
    assert layout_of(provider) == torch.channels_last and base_of(provider) == "eager channels_last"
    assert is_graphed(provider) and not is_graphed("eager") and is_ours("fastgan" + GRAPH)


@pytest.mark.parametrize("case", [*CASES, *PASS_CASES], ids=str)
def test_a_gpu_s_providers(case):
    for mode in case.modes:
        plain = case.providers(mode, compiled=False)
        assert workloads.providers(case, mode, False, CPU) == plain
        found = workloads.providers(case, mode, False, CUDA)
        bound_by_memory = case.rotates
        assert (COPY in found) is bound_by_memory
        graphed = {p + GRAPH for p in (*plain, *([COPY] if bound_by_memory else []))}
        assert {p for p in found if is_graphed(p)} == (set() if mode == "backward" else graphed)
        for precision in bench.DTYPES:
            assert not set(case.cuda_goals(mode, precision)) - {"eager", "strongest", "copy"}


@pytest.mark.parametrize("case", [*CASES, *PASS_CASES], ids=str)
def test_captured_work_computes_the_same(case):
    """Warm-up changes weights, statistics and moments; all of them are put back, or results would differ."""
    dtype = torch.float32
    expected = equality.oracle(case, dtype, CPU)
    copies = 2 if case.rotates else 1
    for provider in {p for mode in case.modes for p in workloads.providers(case, mode, False, CUDA)}:
        if not is_graphed(provider) and copies == 1:
            continue  # test_cases.py has those
        workload = workloads.set_up(case, provider, dtype, CPU, copies)
        if base_of(provider) != COPY:
            equality.check_equal(case, provider, workload.results(), expected, dtype)
        for mode in case.modes:
            if provider in workloads.providers(case, mode, False, CUDA):
                workload.modes[mode]()


def test_state_that_is_forgotten_shows():
    """Without the running statistics among the state, the results are those of a later step."""
    honest = STEP.setup("eager" + GRAPH, torch.float32, CPU)
    forgetful = Workload(honest.modes, honest.results, honest.implementation)
    with pytest.raises(equality.UnequalError, match="running_"):
        found = workloads._graphed(forgetful, CPU).results()
        equality.check_equal(STEP, "eager", found, equality.oracle(STEP, torch.float32, CPU), torch.float32)


def test_what_the_warm_up_made_begins_at_zero():
    moments: list[torch.Tensor] = []
    weight = torch.ones(3)

    def step():
        if not moments:
            moments.append(torch.zeros(3))
        moments[0] += 1
        weight.mul_(2)

    workloads.capture(step, lambda: [weight, *moments], CPU)
    assert weight.tolist() == [1.0] * 3 and moments[0].tolist() == [0.0] * 3


def test_all_sets_run_in_a_call():
    case = ClipWeightsCase("DCGAN critic", image_size=16, ndf=8)
    made = [case.setup("loop", torch.float32, CPU) for _ in range(3)]
    for workload in made:
        for t in workload.state():
            t.fill_(5.0)
    workloads._rotated(made).modes["step"]()
    assert all(t.max().item() == pytest.approx(0.01) for workload in made for t in workload.state())


def test_the_sets_of_a_pass_outgrow_the_cache(monkeypatch):
    properties = SimpleNamespace(L2_cache_size=60 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    for case in bench.all_cases("cuda"):
        copies = workloads.sets(case, case.modes[0], torch.bfloat16, CUDA)
        assert copies == 1 or case.rotates
        if case.rotates:
            assert copies * case.work(case.modes[0], torch.bfloat16).bytes >= 4 * properties.L2_cache_size
        assert workloads.sets(case, case.modes[0], torch.bfloat16, CPU) == 1


def test_a_provider_that_fails_is_left_out_and_named(monkeypatch):
    honest = StepCase.setup

    def broken(self, provider, *arguments, **options):
        if provider == "eager channels_last":
            raise NotImplementedError("no such convolution\nand a long story")
        workload = honest(self, provider, *arguments, **options)
        if provider == "fastgan":
            return Workload(workload.modes, lambda: {k: 3 * v for k, v in workload.results().items()})
        return workload

    monkeypatch.setattr(StepCase, "setup", broken)
    run = bench._Run(CPU, torch.float32, "float32", SETTINGS, False, False, Ceilings(1e10, 1e12), strict=False)
    (row,) = run.rows(STEP)
    assert set(row.seconds) == {"eager", "fastgan channels_last"}
    assert row.floor.flops == STEP.work("step", torch.float32).flops and row.floor.bound_by == "bytes"
    assert run.left_out[f"{STEP}: eager channels_last"] == "NotImplementedError: no such convolution"
    assert run.left_out[f"{STEP}: fastgan"].startswith("UnequalError: ")
