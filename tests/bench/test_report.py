"""Rows, verdicts, files and their comparison; and a whole run on tiny cases."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from fastgan import bench
from fastgan.bench import report
from fastgan.bench.__main__ import main
from fastgan.bench.report import Row
from fastgan.bench.timer import Timing

from .tiny import CASES, SETTINGS

CPU = torch.device("cpu")
CONV = CASES[1]


def row(ours=1.0, eager=2.0, channels_last=1.5, case=CONV, memory=None) -> Row:
    seconds = {
        "eager": [eager * 1e-3] * 3,
        "eager channels_last": [channels_last * 1e-3] * 3,
        "fastgan": [ours * 1e-3] * 3,
        "fastgan channels_last": [9e-3] * 3,
    }
    timing = Timing(seconds, dict.fromkeys(seconds, 1), dropped=2, noisy=False)
    implementations = dict.fromkeys(seconds, "reference")
    made = report.row(case, "both", "float32", CPU, timing, implementations)
    return made if memory is None else dataclasses.replace(made, peak_memory=memory)


@pytest.fixture
def facts():
    return report.environment(CPU)


def test_a_row_is_fastgan_against_the_strongest():
    r = row()
    assert (r.ours, r.strongest) == ("fastgan", "eager channels_last")
    assert r.speedup.median == pytest.approx(1.5)
    assert r.layout_speedup == pytest.approx({"fastgan": 2.0, "fastgan channels_last": 1.5 / 9})
    assert (r.rounds, r.dropped, r.passed, r.memory_passed) == (3, 2, True, True)


@pytest.mark.parametrize(
    ("speedup", "bar", "slower_by_s", "passed"),
    [(0.97, 0.97, 1.0, True), (0.96, 0.97, 60e-6, False), (0.5, 0.97, 49e-6, True), (1.39, 1.4, -1.0, False)],
)
def test_verdict(speedup, bar, slower_by_s, passed):
    assert report.is_passed(speedup, bar, slower_by_s) is passed


def test_memory_verdict():
    step = next(case for case in CASES if case.op == "step")
    within = row(case=step, memory={"fastgan": 114, "eager channels_last": 100})
    beyond = row(case=step, memory={"fastgan": 116, "eager channels_last": 100})
    assert within.memory_passed and not beyond.memory_passed
    assert "TOO MUCH MEMORY" in report.format_row(beyond) and "1.16x" in report.format_row(beyond)
    assert "BELOW THE BAR" in report.format_row(row(ours=3.0)) and "BELOW" not in report.format_row(row())


def test_environment_says_what_numbers_depend_on(facts):
    assert facts["device"] == "cpu" and facts["gpu"] is None
    assert facts["torch"] == torch.__version__ and facts["threads"] == torch.get_num_threads()
    for key in ("cpu", "cores", "cpu_capability", "fastgan", "python", "date", "implementation", "extension"):
        assert facts[key], key
    assert set(report.LIKE) <= facts.keys()
    json.dumps(facts)


def test_the_folder_names_the_hardware(facts):
    cpu = facts | {"cpu": "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", "cores": 4, "cpu_capability": "AVX512"}
    assert report.machine(cpu) == "intel-xeon-gold-6338-cpu-2-00ghz-4-cores-avx512"
    assert report.machine(facts | {"gpu": "NVIDIA H200"}) == "nvidia-h200"
    cpu |= {"date": "2026-01-02T03:04:05+00:00", "commit": "abc1234567"}
    assert report.result_file("r", cpu).parts[-2:] == (report.machine(cpu), "2026-01-02-abc1234567.json")
    assert report.result_file("r", cpu | {"commit": None}).name == "2026-01-02-uncommitted.json"
    assert str(report.result_file("here/x.json", cpu)) == "here/x.json"


def test_files_come_back(tmp_path, facts):
    rows = [row(), row(case=CASES[2], memory={"fastgan": 3, "eager channels_last": 2})]
    path = tmp_path / "deep" / "x.json"
    report.write(path, facts, rows)
    assert report.read(path) == (facts, rows)
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\x00"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no file of benchmark results"):
        report.read(path)


def test_another_schema_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 0, "environment": {}, "rows": []}')
    with pytest.raises(ValueError, match="schema 0; this fastgan reads 1"):
        report.read(path)


def compared(tmp_path, facts, old, new, changes=()):
    for name, r, f in (("old.json", old, facts), ("new.json", new, facts | dict(changes))):
        report.write(tmp_path / name, f, [r])
    return report.compare(tmp_path / "old.json", tmp_path / "new.json")


def test_compare(tmp_path, facts):
    memory = {"fastgan": 100 << 20, "eager channels_last": 100 << 20}
    assert compared(tmp_path, facts, row(), row(ours=1.04)) == []  # within 5%
    assert compared(tmp_path, facts, row(ours=0.1), row(ours=0.14)) == []  # within 50 us
    assert compared(tmp_path, facts, row(), row(ours=0.5)) == []
    (slower,) = compared(tmp_path, facts, row(), row(ours=1.2))
    assert slower.endswith("both | float32: 1 ms became 1.2 ms")
    more = memory | {"fastgan": 110 << 20}
    (larger,) = compared(tmp_path, facts, row(memory=memory), row(memory=more))
    assert larger.endswith("peak memory 100.0 MiB became 110.0 MiB")


def test_compare_allows_for_the_noise_of_either_run(tmp_path, facts):
    unsteady = dataclasses.replace(row(), seconds=row().seconds | {"fastgan": report.Spread(1e-3, 8e-4, 1.2e-3, 0, 1)})
    assert compared(tmp_path, facts, unsteady, row(ours=1.3)) == []
    assert len(compared(tmp_path, facts, unsteady, row(ours=1.5))) == 1


def test_compare_refuses_unlike_hardware(tmp_path, facts):
    with pytest.raises(ValueError, match=r"unlike hardware: threads \d+ and 96"):
        compared(tmp_path, facts, row(), row(), {"threads": 96}.items())
    with pytest.raises(ValueError, match="no row in common"):
        compared(tmp_path, facts, row(), row(case=CASES[2]))


def test_command_line(tmp_path, facts, capsys):
    assert main(["--list", "--only", "step"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["--list", "--batch", "2", "16", "--only", "G 512"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert names == [f"conv_transpose2d_bn_act G 512->256 @4, batch {n}" for n in (2, 16)]
    old, new = str(tmp_path / "old.json"), str(tmp_path / "new.json")
    compared(tmp_path, facts, row(), row(ours=2.0))
    assert main(["--compare", old, old]) == 0
    assert main(["--compare", old, new]) == 1
    assert main(["--compare", old, str(tmp_path / "none.json")]) == 2
    assert main(["--only", "pooling"]) == 2
    assert "only is 'pooling'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "toaster"}, "device is 'toaster'; it takes cpu, cuda or cuda:N"),
        ({"batches": [8, 0]}, r"batches is \[8, 0\]; it takes 1 and more"),
        ({"dtype": "int8"}, "dtype is 'int8'; it takes one of float32"),
        ({"dtype": "float16", "selection": ["clip"]}, "in which none of the chosen benchmarks runs"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        bench.run(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device():
    with pytest.raises(ValueError, match="sees no CUDA device; use cpu"):
        bench.run(device="cuda")


def test_a_whole_run(tmp_path):
    lines: list[str] = []
    some = [CASES[i] for i in (0, 5, 12, 14)] + CASES[-5:]
    rows = bench.run(
        out=tmp_path, implementation="reference", cases=some, settings=SETTINGS, measure_memory=False, show=lines.append
    )
    assert len(rows) == sum(len(case.modes) for case in some) == len(lines) - 3
    (path,) = tmp_path.glob("*/*.json")
    facts, read = report.read(path)
    assert read == rows and facts["implementation"] == "reference"
    for r in rows:
        assert "reference" in r.implementation
        assert set(r.seconds) == set(r.calls) and r.ours.startswith("fastgan") and r.strongest in r.seconds
        assert r.rounds >= 1 and all(s.min > 0 for s in r.seconds.values())
    assert {r.bar for r in rows if r.op == "rmsprop_clip_"} == {1.5}
    assert {r.memory_bar for r in rows if r.op == "step"} == {1.15}
