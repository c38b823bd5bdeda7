"""Checkpoint files: what comes back, what is refused, what survives a failure."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastgan.training import checkpoint
from fastgan.training.checkpoint import (
    CheckpointError,
    CorruptCheckpointError,
    load_networks,
    load_run,
    read_checkpoint,
    write_atomically,
    write_checkpoint,
)

from .stubs import TinyGAN, build

STATE = {
    "tensors": [torch.arange(6.0).reshape(2, 3).t(), torch.tensor(3), torch.zeros(0, 2), torch.tensor([True, False])],
    "half": torch.randn(3, dtype=torch.bfloat16),
    "by_number": {0: torch.ones(2), 1: {"step": 4}},
    "numbers": (1, 0.1 + 0.2, float("inf"), None, "text", True, [2, (3,)]),
    "a": {"b": torch.ones(1)},
    "a.b": torch.zeros(1),
}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_round_trip(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.safetensors", STATE)
    assert same(read_checkpoint(tmp_path / "x.safetensors"), STATE)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_shared_storage_is_saved_twice(tmp_path: Path) -> None:
    weight = torch.randn(4)
    write_checkpoint(tmp_path / "x.safetensors", {"a": weight, "b": weight, "c": weight[1:3]})
    assert same(read_checkpoint(tmp_path / "x.safetensors"), {"a": weight, "b": weight, "c": weight[1:3]})


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot save optimizers\.critic: it is a object"):
        write_checkpoint(tmp_path / "x.safetensors", {"optimizers": {"critic": object()}})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.999])
def test_truncated(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, STATE)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(CorruptCheckpointError, match="truncated or damaged"):
        read_checkpoint(path)


def test_one_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, STATE)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="do not match their checksum"):
        read_checkpoint(path)


def test_a_stranger(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CorruptCheckpointError, match="was not written by fastgan"):
        read_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "y.safetensors")


def test_a_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    write_checkpoint(tmp_path / "x.safetensors", {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="newer fastgan"):
        read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"step": 1})

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(CheckpointError, match=r"cannot write .*x\.safetensors: No space left on device; make room"):
        write_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert read_checkpoint(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_the_content_before_is_kept_as_previous(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        write_atomically(tmp_path / "a", lambda t, text=text: t.write_text(text), previous=tmp_path / "b")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("three", "two")


def test_another_model_is_refused_and_nothing_loaded(tmp_path: Path) -> None:
    small, large = TinyGAN(), TinyGAN(TinyGAN.Config(widths=(9,)))
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"X holds another model than TinyGAN: it has 'generator\.0\.weight' of shape"
    ):
        load_networks(small, large.state_dict(), "X")
    lacking = {k: v + 1 for k, v in small.state_dict().items() if k != "history"}
    with pytest.raises(CheckpointError, match="it lacks 'history'$"):
        load_networks(small, lacking, "X")
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_load_run(tmp_path: Path) -> None:
    options = {"image_size": 16, "channels": 1}
    trainer = build("dcgan", str(tmp_path / "run"), steps=4, metric_every=2, checkpoint_every=2)
    gan = trainer.fit()
    plain = load_run(tmp_path / "run", "last", ema=False)
    assert type(plain).name == "dcgan" and plain.config == gan.config and not plain.training
    assert {k: getattr(plain.config, k) for k in options} == options
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in gan.state_dict().items())
    averaged = load_run(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(torch.equal(averaged.state_dict()[k], v) for k, v in trainer.ema.tensors.items())
    assert not torch.equal(averaged.generator.layers[0].weight, plain.generator.layers[0].weight)
    assert load_run(tmp_path / "run", "best").sample(2).shape == (2, 1, 16, 16)


def test_load_run_of_an_unregistered_class(tmp_path: Path) -> None:
    build("tiny", str(tmp_path), steps=2).fit()
    with pytest.raises(CheckpointError, match=r"TinyGAN, which has no name: register it"):
        load_run(tmp_path)
    assert load_run(tmp_path, architecture=TinyGAN()).sample(2).shape == (2, 1, 4, 4)


def test_load_run_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is 'worst'"):
        load_run(tmp_path, "worst")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_run(tmp_path / "nothing")
