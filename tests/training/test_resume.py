"""A run killed at any moment and resumed ends with the same bytes as one that was never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan
from fastgan import registry
from fastgan.training.checkpoint import read_checkpoint

from . import crash

ROOT = Path(fastgan.__file__).parents[1]
# built-in ones only: the program that trains them knows no architecture that another test registered
BUILT_IN = [name for name in fastgan.list_architectures() if registry.get(name).__module__.startswith("fastgan.")]
ARCHITECTURES = ["tiny", *BUILT_IN]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    command = [sys.executable, crash.__file__, str(root), *ARCHITECTURES]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return root


def contents(run: Path) -> dict[str, object]:
    """Every file of a run by name: its bytes, or for metrics.jsonl the records without their times."""
    files: dict[str, object] = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(file.relative_to(run))
        files[name] = file.read_bytes()
        if name == "metrics.jsonl":
            records = [json.loads(line) for line in file.read_text().splitlines()]
            files[name] = [{k: v for k, v in record.items() if k != "images_per_second"} for record in records]
    return files


def assert_same(run: Path, whole: Path) -> None:
    expected, got = contents(whole), contents(run)
    assert sorted(got) == sorted(expected)
    assert [name for name in expected if got[name] != expected[name]] == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_killed_at_random_moments(runs: Path, name: str) -> None:
    assert_same(runs / name / "random", runs / name / "whole")


def test_killed_before_every_change_on_disk(runs: Path) -> None:
    count = int((runs / "count").read_text())
    assert count > 20
    for event in range(1, count + 1):
        assert_same(runs / "events" / f"event_{event:03d}", runs / "events" / "whole")


def test_the_whole_run_is_what_was_asked(runs: Path) -> None:
    files = contents(runs / "tiny" / "whole")
    assert [record["step"] for record in files["metrics.jsonl"]] == [3, 6, 9, 12, 13]
    assert {f"samples/step_{step:06d}.png" for step in (4, 8, 12, 13)} < set(files)
    state = read_checkpoint(runs / "tiny" / "whole" / "checkpoints" / "last.safetensors")
    # 7 steps of the first stage (two of them with three critic updates), 6 of the second with two batches a step
    assert (state["step"], state["stage"], state["stage_step"]) == (13, 1, 6)
    assert state["position"] == (7 + 2 * 2) + (6 + 2 * 2) + 6
    assert set(state["optimizers"]) == {"critic", "generator", "polish"}
    assert read_checkpoint(runs / "tiny" / "whole" / "checkpoints" / "previous.safetensors")["step"] == 10
