"""The tests of the executor: kernels of pipelines.cuh are right in every thread order and with every landing time of
asynchronous copies; with a fault put in, the executor says which and on which line."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

from .structs import ORDERS
from .toolchain import HERE, build, compile_both_ways, line_of

SOURCE = HERE / "pipelines.cuh"
LANDINGS = {"late": 0, "eager": 1}
MODES = list(itertools.product(ORDERS, LANDINGS))
FAULTS = re.findall(r"^  (\w+),$", re.search(r"enum class Fault.*?};", SOURCE.read_text(), re.DOTALL)[0], re.MULTILINE)

A_COPY, B_COPY = "cp_async_16(a_tile", "cp_async_4(b_tile"
A_LOAD, B_LOAD = "const float x = a_tile", "const float y = b_tile"
FILLED, EMPTIED = "mbarrier_wait(full + slot", "mbarrier_wait(empty + slot"
EXPECTED, BULK = "mbarrier_arrive_expect_tx(full", "bulk_copy(slots"

# What the executor says of each fault: some text, then the two lines of a race in either order, or the one at fault;
# where several can be the first that it notices, all of them.
REPORTS = {
    "NoWait": ("gemm", "race on shared memory", [A_COPY, B_COPY], [A_LOAD, B_LOAD]),
    "WaitOneGroupTooFew": ("gemm", "race on shared memory", [A_COPY, B_COPY], [A_LOAD, B_LOAD]),
    "NoBarrierAfterWait": ("gemm", "race on shared memory", [A_COPY, B_COPY], [A_LOAD, B_LOAD]),
    "NoBarrierBeforeRefill": ("gemm", "race on shared memory", [A_COPY, B_COPY], [A_LOAD, B_LOAD]),
    "SourceOverwritten": ("gemm", "race on global memory", [A_COPY], ["a[m0 * k] = 0.f"]),
    "CopyPastTheEnd": ("gemm", "not shared memory|past the end", [A_COPY, B_COPY]),
    "PhaseNeverFlips": ("ring", "race on shared memory|deadlock", [FILLED, EMPTIED, BULK]),
    "TooManyBytesExpected": ("ring", "deadlock.*lacks 0 arrivals and 256 bytes", [FILLED]),
    "TooFewBytesExpected": ("ring", "deadlock.*lacks 0 arrivals and -128 bytes", [FILLED]),
    "SlotNotAwaited": ("ring", "race on shared memory|more arrivals than a phase", [EXPECTED, BULK]),
    "NoProxyFence": ("ring", r"no fence_proxy_async\(\)", ["mbarrier_init(full"], [BULK]),
    "DivergentShuffle": ("grid_sum", "deadlock.*__shfl_xor_sync", ["__shfl_xor_sync"]),
    "NoSyncwarp": ("grid_sum", "race on shared memory", ["of_thread[thread] = in["], ["sum += of_thread["]),
    "NoBarrier": ("grid_sum", "race on shared memory", ["of_warp[place] = sum"], ["of_warp[0];", "+= of_warp[1]"]),
    "StorePastTheEnd": ("grid_sum", "past the end of a shared array", ["of_warp[place] = sum"]),
    "TwoBlocksOneAddress": ("grid_sum", "race on global memory", ["partial[mine] = of_block"]),
    "NoGridBarrierBeforeRead": ("relay", "race on global memory", ["held[mine] = value"], ["value = held[other]"]),
    "NoGridBarrierBeforeWrite": ("relay", "race on global memory", ["held[mine] = value"], ["value = held[other]"]),
    "BlockLeaves": ("relay", "deadlock.*grid_sync", ["NoGridBarrierBeforeRead) grid_sync()"]),
    "NoFence": ("grid_sum", "race on global memory", ["partial[mine] = of_block"], ["= partial[i]"]),
}

# No thread order and no landing time makes these give a wrong result here: only the race detector finds them.
ONLY_AS_RACES = {"NoProxyFence", "NoFence"}


@build
def pipelines(folder, race_detector) -> dict[str, Path]:
    """pipelines.cpp as plain code, and with the race detector."""
    return compile_both_ways(folder, HERE / "pipelines.cpp", race_detector)


def run(executable: Path, kernel: str, fault: str, order: str, landing: str) -> str:
    numbers = map(str, (FAULTS.index(fault), ORDERS[order], LANDINGS[landing]))
    done = subprocess.run([executable, kernel, *numbers], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("build", ["plain", "races"])
@pytest.mark.parametrize("kernel", ["gemm", "ring", "grid_sum", "relay"])
def test_right_kernels_are_right_in_every_order_and_timing(pipelines, kernel, build):
    assert [run(pipelines[build], kernel, "None", *mode) for mode in MODES] == ["right"] * len(MODES)


def test_every_fault_has_a_report():
    assert {"None", *REPORTS} == set(FAULTS)


@pytest.mark.parametrize("fault", REPORTS)
def test_a_fault_is_reported_with_its_line(pipelines, fault):
    kernel, text, *sites = REPORTS[fault]
    for mode in MODES:
        report = run(pipelines["races"], kernel, fault, *mode)
        assert re.search(text, report, re.DOTALL), f"{mode}: {report}"
        named = {int(line) for line in re.findall(rf"{SOURCE.name}:(\d+)", report)}
        for alternatives in sites:
            assert named & {line_of(SOURCE, site) for site in alternatives}, f"{mode}: {alternatives} not in {report}"


@pytest.mark.parametrize("fault", REPORTS.keys() - ONLY_AS_RACES)
def test_without_the_race_detector_some_order_or_timing_shows_a_fault(pipelines, fault):
    """What test_kernels.py, which runs without it, relies on."""
    assert any(run(pipelines["plain"], REPORTS[fault][0], fault, *mode) != "right" for mode in MODES)
