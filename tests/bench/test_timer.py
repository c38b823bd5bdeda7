"""The timer's arithmetic, its order of rounds and what it does with disturbed ones; no timing is asserted."""

from __future__ import annotations

import os

import pytest
import torch

from fastgan.bench import timer
from fastgan.bench.timer import Settings, Spread, Timing, interleave

CPU = torch.device("cpu")
FEW = Settings(rounds=4, warmup=1, budget_s=60.0, least_sample_s=0.0)


class Quiet:
    """A machine on which others run in the rounds named."""

    def __init__(self, disturbed=()):
        self.disturbed, self.round = set(disturbed), -1

    def wait_until_idle(self, end):
        pass

    def start(self):
        self.round += 1

    def others_ran(self):
        return self.round in self.disturbed


@pytest.fixture
def load(monkeypatch):
    def install(*disturbed):
        quiet = Quiet(disturbed)
        monkeypatch.setattr(timer, "_Load", lambda watched: quiet)
        return quiet

    return install


def test_spread():
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 3.0, 3.0)
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0, min=1.0, max=5.0)


def test_speedup_is_the_median_of_ratios_within_rounds():
    # the machine was ten times slower in the last round, for both: the ratio there is what counts, not the time
    timing = Timing({"fastgan": [1.0, 2.0, 10.0], "eager": [2.0, 2.0, 30.0]}, {}, 0, False)
    assert timing.speedup("fastgan", over="eager") == Spread.of([2.0, 1.0, 3.0])
    assert timing.fastest(["fastgan", "eager"]) == "fastgan"


def test_rounds_are_interleaved_and_rotate(load):
    load()
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "abc"}
    timing = interleave(functions, CPU, FEW)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"  # warm-up, then four rounds
    assert {name: len(values) for name, values in timing.seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(t > 0 for values in timing.seconds.values() for t in values)
    assert (timing.dropped, timing.noisy) == (0, False)


def test_disturbed_rounds_are_dropped(load):
    load(0, 2)
    timing = interleave({"a": lambda: None}, CPU, FEW)
    assert (len(timing.seconds["a"]), timing.dropped, timing.noisy) == (4, 2, False)


def test_all_rounds_count_where_too_few_are_clean(load, monkeypatch):
    load(*range(1000))
    clock = iter(range(10**6))
    monkeypatch.setattr(timer.time, "perf_counter", lambda: next(clock))
    timing = interleave({"a": lambda: None}, CPU, Settings(rounds=4, warmup=1, budget_s=20.0, least_sample_s=0.0))
    assert timing.noisy and timing.dropped == 0 and len(timing.seconds["a"]) >= 3


def test_the_budget_ends_a_row_but_never_before_its_least_rounds(load, monkeypatch):
    load()
    clock = iter(range(10**6))
    monkeypatch.setattr(timer.time, "perf_counter", lambda: next(clock))
    brief = Settings(rounds=100, warmup=1, budget_s=0.5, least_sample_s=0.0, least_rounds=3)
    assert len(interleave({"a": lambda: None}, CPU, brief).seconds["a"]) == 3


def test_short_work_is_repeated(load, monkeypatch):
    load()
    now = [0.0]
    monkeypatch.setattr(timer.time, "perf_counter", lambda: now[0])

    def work(seconds):
        now[0] += seconds

    functions = {"short": lambda: work(1e-3), "long": lambda: work(1.0)}
    timing = interleave(functions, CPU, Settings(rounds=2, warmup=1, least_sample_s=4.5e-3))
    assert timing.calls == {"short": 5, "long": 1}
    assert timing.seconds["short"] == pytest.approx([1e-3, 1e-3])  # a call, not a sample


def test_times_are_of_one_unit(load, monkeypatch):
    load()
    now = [0.0]
    monkeypatch.setattr(timer.time, "perf_counter", lambda: now[0])

    def three_sets():
        now[0] += 3e-3

    settings = Settings(rounds=2, warmup=1, least_sample_s=4.5e-3)
    timing = interleave({"a": three_sets}, CPU, settings, units=3)
    assert timing.calls == {"a": 2} and timing.seconds["a"] == pytest.approx([1e-3, 1e-3])


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc/stat")
def test_other_processes_are_told_from_this_one(monkeypatch):
    readings = iter([(1000, 500), (1200, 600)])  # 200 ticks pass on all CPUs, 100 of them idle
    monkeypatch.setattr(timer, "_cpu_ticks", lambda: next(readings))

    def others(own):
        nonlocal readings
        readings = iter([(1000, 500), (1200, 600)])
        used = iter([0.0, own])
        monkeypatch.setattr(timer, "_own_ticks", lambda: next(used))
        load = timer._Load(watched=True)
        load.start()
        return load.others_ran()

    assert not others(own=100)
    assert not others(own=90)  # 5% is noise
    assert others(own=50)


def test_nothing_is_watched_where_the_gpu_works():
    load = timer._Load(watched=False)
    load.wait_until_idle(end=float("inf"))
    load.start()
    assert not load.others_ran()
