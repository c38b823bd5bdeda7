"""Interleaved timing: one round runs every provider once, the next round in another order.

A shared machine changes speed from second to second, so only times of one round are comparable: what counts is the
median over rounds of the ratio within a round. Rounds in which other processes used the CPU are dropped (Linux, CPU
work only), and a round begins only once the machine is idle. Short work is repeated within a round until it can be
measured. A GPU is timed by its own events, around calls that are all enqueued without waiting.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Settings", "Spread", "Timing", "interleave"]

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    rounds: int = 15
    warmup: int = 2
    budget_s: float = 15.0  # a row ends after this many seconds, with the rounds that it then has
    least_sample_s: float = 5e-3  # shorter work is called repeatedly
    least_rounds: int = 3  # run in any case; with fewer undisturbed ones the disturbed ones count too


QUICK = Settings(rounds=5, warmup=1, budget_s=5.0)
# A GPU that nobody shares is steady, but takes its clock up only under load: more warm-up, longer samples.
CUDA = Settings(rounds=21, warmup=5, budget_s=5.0, least_sample_s=1e-2)


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles and extremes around it."""

    median: float
    low: float
    high: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(median, low, high, min(values), max(values))


@dataclass(frozen=True)
class Timing:
    """Seconds a unit of work, by provider and round; the rounds are aligned."""

    seconds: dict[str, list[float]]
    calls: dict[str, int]  # calls in one sample
    dropped: int  # rounds left out because other processes ran
    noisy: bool  # True: too few undisturbed rounds, so none was left out

    def spread(self, provider: str) -> Spread:
        return Spread.of(self.seconds[provider])

    def fastest(self, providers: list[str]) -> str:
        """The provider with the smallest median."""
        return min(providers, key=lambda p: statistics.median(self.seconds[p]))

    def speedup(self, provider: str, over: str) -> Spread:
        """How many times faster ``provider`` is than ``over``, round by round."""
        return Spread.of([b / a for a, b in zip(self.seconds[provider], self.seconds[over], strict=True)])


def interleave(
    functions: dict[str, Callable[[], object]], device: torch.device, settings: Settings, units: int = 1
) -> Timing:
    """Time ``functions`` against each other. units: how often a call of each does the work that is asked about."""
    sample = _sample_cuda if device.type == "cuda" else _sample_cpu
    calls = {name: _calls(function, sample, settings) for name, function in functions.items()}
    names, load = list(functions), _Load(watched=device.type == "cpu")
    clean: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    end = time.perf_counter() + settings.budget_s
    longest_wait = settings.budget_s / (2 * settings.least_rounds)  # on a machine that is never idle
    while len(clean) < settings.rounds:
        now = time.perf_counter()
        if now >= end and len(clean) + len(disturbed) >= settings.least_rounds:
            break
        load.wait_until_idle(min(end, now + longest_wait))
        k = (len(clean) + len(disturbed)) % len(names)
        load.start()
        times = {name: sample(functions[name], calls[name]) for name in names[k:] + names[:k]}
        (disturbed if load.others_ran() else clean).append(times)
    noisy = len(clean) < settings.least_rounds and bool(disturbed)
    kept = clean + disturbed if noisy else clean
    return Timing(
        {name: [times[name] / units for times in kept] for name in names}, calls, 0 if noisy else len(disturbed), noisy
    )


def _calls(function: Callable[[], object], sample: Callable, settings: Settings) -> int:
    """Warm up, then say how many calls make a sample long enough."""
    for _ in range(settings.warmup):
        seconds = sample(function, 1)
    return max(1, math.ceil(settings.least_sample_s / max(seconds, 1e-7)))


def _sample_cpu(function: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls


def _sample_cuda(function: Callable[[], object], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


class _Load:
    """CPU time that other processes use, from /proc/stat; nothing is noticed where there is none."""

    def __init__(self, watched: bool) -> None:
        self.watched = watched and os.path.exists("/proc/stat")

    def wait_until_idle(self, end: float) -> None:
        """Return when the machine has been idle for 60 ms, at ``end`` at the latest."""
        while self.watched and time.perf_counter() < end:
            total, idle = _cpu_ticks()
            time.sleep(0.06)
            later_total, later_idle = _cpu_ticks()
            if later_idle - idle > 0.9 * (later_total - total):
                return

    def start(self) -> None:
        if self.watched:
            self.begin = (*_cpu_ticks(), _own_ticks())

    def others_ran(self) -> bool:
        """Whether others took more than 8% of the CPUs since ``start``, or three ticks, the counters' noise."""
        if not self.watched:
            return False
        total, idle, own = (b - a for a, b in zip(self.begin, (*_cpu_ticks(), _own_ticks()), strict=True))
        return total - idle - own > max(3, 0.08 * total)


def _cpu_ticks() -> tuple[int, int]:
    """(all, idle) ticks of all CPUs since boot."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def _own_ticks() -> float:
    times = os.times()
    return (times.user + times.system) * TICKS_PER_SECOND
