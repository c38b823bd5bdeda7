"""The tests of what the executor believes of sm_90a: kernels of tensor_cores.cuh are right in every thread order and
with every landing time, for every operand layout; with a fault put in, the executor says which and on which line."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

from .structs import ORDERS
from .toolchain import HERE, build, compile_both_ways, line_of

SOURCE = HERE / "tensor_cores.cuh"
LANDINGS = {"late": 0, "eager": 1}
MODES = list(itertools.product(ORDERS, LANDINGS))
FAULT_NAMES = re.search(r"enum class TensorFault.*?};", SOURCE.read_text(), re.DOTALL)[0]
FAULTS = re.findall(r"^  (\w+),$", FAULT_NAMES, re.MULTILINE)
CASES = {"product": 18, "stored": 1, "gathered": 4}

STORES = ["tiles + swizzled) = a[i]", "tiles + Tile::kBytes + swizzled"]
MULTIPLY, COPIES = "wgmma<T, kMajorA, kMajorB>(d, of_a", ["tensor_copy(a + box", "tensor_copy(a + TileA::kBytes"]

# What the executor says of each fault: some text, then the lines of which one is named.
REPORTS = {
    "OtherSwizzle": ("product", "starts inside the swizzle's pattern|wrong: ", []),
    "StrideTwiceAsLong": ("product", "wrong: pattern 0|race on shared memory|outside shared memory", []),
    "LeadingTwiceAsLong": ("product", "wrong: pattern 0|race on shared memory|outside shared memory", []),
    "MisalignedTile": ("product", "starts inside the swizzle's pattern: the tile is misaligned", [MULTIPLY]),
    "NoWaitForTile": ("product", "race on shared memory", [MULTIPLY, *COPIES]),
    "ReleasedBeforeWait": ("product", "race on shared memory", [MULTIPLY, *COPIES]),
    "NoFence": ("product", "no wgmma_fence since its accumulators were free", [MULTIPLY]),
    "NoWait": ("product", "not waited for|accumulator is used while|race on shared", [MULTIPLY, *COPIES, "c[row * kN"]),
    "WaitOneGroupTooFew": ("product", "race on shared memory", [MULTIPLY, *COPIES]),
    "AccumulatorUsedInFlight": ("product", "accumulator is used while wgmma are in flight", ["d[0] += 1.f"]),
    "TooFewBytes": ("product", "deadlock.*lacks 0 arrivals and -128 bytes", ["mbarrier_wait(full + stage"]),
    "NoProxyFence": (
        "stored",
        r"no fence_proxy_async\(\)",
        ["tiles + swizzled) = a[i]", "tiles + Tile::kBytes + swizzled"],
    ),
    "NoBarrier": ("stored", "race on shared memory", STORES),
}

# No thread order and no landing time makes these give a wrong result here: only the race detector finds them.
ONLY_AS_RACES = {"NoProxyFence", "ReleasedBeforeWait"}


@build
def tensor_cores(folder, race_detector) -> dict[str, Path]:
    """tensor_cores.cpp as plain code, and with the race detector."""
    return compile_both_ways(folder, HERE / "tensor_cores.cpp", race_detector)


def run(executable: Path, kernel: str, fault: str, order: str, landing: str, patterns: int = 1) -> str:
    numbers = map(str, (patterns, FAULTS.index(fault), ORDERS[order], LANDINGS[landing]))
    done = subprocess.run([executable, kernel, *numbers], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_all_right(output: str, cases: int) -> None:
    assert [line.rpartition(": ")[2] for line in output.splitlines()] == ["right"] * cases, output


@pytest.mark.parametrize(("kernel", "cases"), CASES.items())
@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_right_kernels_are_right_in_every_order_and_timing(tensor_cores, kernel, cases, mode):
    assert_all_right(run(tensor_cores["plain"], kernel, "None", *mode, 5), cases)


@pytest.mark.parametrize(("kernel", "cases"), CASES.items())
def test_right_kernels_do_not_race(tensor_cores, kernel, cases):
    assert_all_right(run(tensor_cores["races"], kernel, "None", "random", "late"), cases)


def test_every_fault_has_a_report():
    assert {"None", *REPORTS} == set(FAULTS)


@pytest.mark.parametrize("fault", REPORTS)
def test_a_fault_is_reported_with_its_line(tensor_cores, fault):
    kernel, text, sites = REPORTS[fault]
    for mode in (("forward", "late"), ("reverse", "eager")):
        report = run(tensor_cores["races"], kernel, fault, *mode)
        assert re.search(text, report, re.DOTALL), f"{mode}: {report}"
        named = {int(line) for line in re.findall(rf"{SOURCE.name}:(\d+)", report)}
        assert not sites or named & {line_of(SOURCE, site) for site in sites}, f"{mode}: {sites} not in {report}"


@pytest.mark.parametrize("fault", REPORTS.keys() - ONLY_AS_RACES)
def test_without_the_race_detector_some_order_or_timing_shows_a_fault(tensor_cores, fault):
    assert any("right" not in run(tensor_cores["plain"], REPORTS[fault][0], fault, *mode) for mode in MODES)
