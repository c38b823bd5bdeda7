"""Run folders: resuming, refusing, falling back, and what a failure leaves."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan.training.checkpoint import CheckpointError, read_checkpoint
from fastgan.training.run_folder import RunFolder

from . import stubs
from .stubs import build


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of ten steps: checkpoints at 5 and 10."""
    build("tiny", str(tmp_path / "run"), steps=10, checkpoint_every=5, log_every=2, sample_every=4).fit()
    return tmp_path / "run"


def again(run: Path, **options: object) -> fastgan.Trainer:
    trainer = build(
        "tiny", str(run), **{"steps": 10, "checkpoint_every": 5, "log_every": 2, "sample_every": 4, **options}
    )
    trainer.fit()
    return trainer


def test_a_finished_run_is_left_as_it_is(run: Path) -> None:
    before = snapshot(run)
    assert again(run).step == 10
    assert snapshot(run) == before


def test_a_finished_run_is_extended(run: Path) -> None:
    assert again(run, steps=12).step == 12
    assert read_checkpoint(run / "checkpoints" / "last.safetensors")["step"] == 12
    assert json.loads((run / "config.json").read_text())["trainer"]["steps"] == 12


def test_other_options_are_refused_with_the_difference(run: Path) -> None:
    before = snapshot(run)
    with pytest.raises(CheckpointError) as refusal:
        again(run, batch_size=5, seed=4)
    assert str(refusal.value) == (
        f"{run} was trained with other options; ask for the same, or choose another folder:\n"
        "  trainer.batch_size: the run has 6, asked 5\n"
        "  trainer.seed: the run has 3, asked 4"
    )
    with pytest.raises(CheckpointError, match='architecture.name: the run has "", asked "dcgan"'):
        build("dcgan", str(run), steps=10).fit()
    assert snapshot(run) == before


def test_options_are_compared_before_the_first_checkpoint_too(run: Path) -> None:
    for name in ("last", "previous"):
        (run / "checkpoints" / f"{name}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="trainer.seed"):
        again(run, seed=4)
    assert again(run, steps=3).step == 3  # same options: begins anew
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [2, 3]


def test_never_and_must(run: Path, tmp_path: Path) -> None:
    before = snapshot(run)
    with pytest.raises(CheckpointError, match="holds a run already"):
        again(run, resume="never")
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        again(tmp_path / "other", resume="must")
    assert again(run, resume="must").step == 10
    assert again(tmp_path / "new", resume="never", steps=1).step == 1
    assert snapshot(run) == before


def test_somebody_elses_metrics_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    with pytest.raises(CheckpointError, match="is of no run of fastgan's"):
        again(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


def test_a_damaged_newest_checkpoint_falls_back(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = snapshot(run)
    last = run / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-50])
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        assert again(run).step == 10
    assert "last.safetensors is truncated or damaged" in caplog.text
    assert "going back to" in caplog.text and "previous.safetensors, step 5" in caplog.text
    assert (run / "checkpoints" / "last.damaged").stat().st_size == len(whole["checkpoints/last.safetensors"]) - 50
    after = snapshot(run)
    for name in ("checkpoints/last.safetensors", "checkpoints/previous.safetensors", "samples/step_000008.png"):
        assert after[name] == whole[name], name


def test_two_damaged_checkpoints_change_nothing(run: Path) -> None:
    for name in ("last", "previous"):
        (run / "checkpoints" / f"{name}.safetensors").write_bytes(b"junk")
    before = snapshot(run)
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be read: .* nothing was changed"):
        again(run)
    assert snapshot(run) == before


def test_a_checkpoint_of_another_model_under_the_same_options(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(run)

    class Changed(stubs.TinyGAN):
        def __init__(self) -> None:
            super().__init__()
            self.generator[3] = torch.nn.Linear(8, 16, bias=False)

    monkeypatch.setattr(stubs, "TinyGAN", Changed)
    with pytest.raises(CheckpointError, match=r"holds another model than Changed: it has 'generator.3.bias', which"):
        again(run)
    assert snapshot(run) == before


def test_another_environment_is_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again(run)
    finally:
        torch.set_num_threads(threads)
    assert f"not bit for bit, since the environment changed: threads: {threads} then, {threads + 1} now" in caplog.text


def test_two_processes_cannot_share_a_run(run: Path) -> None:
    folder = RunFolder(run)
    folder.open(read_checkpoint(folder.checkpoint("last"))["config"], "auto")
    with pytest.raises(CheckpointError, match="another process is training in"):
        again(run)
    folder.close()
    again(run)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the run folder .* choose another"):
        again(tmp_path / "file" / "run")


FULL_DISK = """
import resource, sys, torch
from training.stubs import build
from fastgan.training.checkpoint import CheckpointError
torch.set_num_threads(1)
out, limit = sys.argv[1], int(sys.argv[2])
options = dict(steps=20, checkpoint_every=5, log_every=2, sample_every=4)
trainer = build("tiny", out, **options)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    trainer.fit()
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_a_write_that_fails_half_way_keeps_the_run(run: Path) -> None:
    """A limit on the size of files stands for a full disk: the system refuses in the middle of a write."""
    paths = os.pathsep.join([str(Path(fastgan.__file__).parents[1]), str(Path(__file__).parents[1])])
    limit = (run / "checkpoints" / "last.safetensors").stat().st_size // 2
    command = [sys.executable, "-c", FULL_DISK, str(run), str(limit)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout and "make room there" in done.stdout, done.stdout
    assert read_checkpoint(run / "checkpoints" / "last.safetensors")["step"] == 10
    assert not [name for name in snapshot(run) if name.endswith(".tmp")]
    assert again(run, steps=20).step == 20


def test_cut_forgets_what_lies_behind_a_step_and_broken_writes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.mkdir()
    folder.checkpoints.mkdir()
    for name in (".tmpSlbQUL", "last.safetensors"):
        (folder.checkpoints / name).write_bytes(b"half")
    for step in (2, 4, 6):
        folder.append({"step": step})
        (folder.samples / f"step_{step:06d}.png").write_bytes(b"")
    (folder.samples / "mine.png").write_bytes(b"")
    with open(folder.metrics_file, "a") as file:
        file.write('{"step": 1, "los')
    folder.cut(4)
    assert folder.metrics_file.read_text() == '{"step": 2}\n{"step": 4}\n'
    assert sorted(os.listdir(folder.samples)) == ["mine.png", "step_000002.png", "step_000004.png"]
    assert os.listdir(folder.checkpoints) == ["last.safetensors"]
