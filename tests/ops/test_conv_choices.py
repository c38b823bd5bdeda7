"""Choices of timed trials: words, the cache on disk, checkpoints. The trials themselves: tests/cuda_on_host."""

from __future__ import annotations

import json

import pytest
import torch

from fastgan import _info
from fastgan.ops import _conv_choices, _library

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="needs the compiled extension")

DEVICE = 61  # of no machine: choices are kept by number, and this one's are nobody else's
GPU = torch.device("cuda", DEVICE)
CHOICES = {"conv2d output, bfloat16, x 1x2x3x4 nhwc": ("sm80", {"sm80": 1.5, "aten": 2.0})}


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """A device of a known kind, and a cache of its own."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(_conv_choices, "identity", lambda device: f"GPU {device}")
    monkeypatch.setattr(_conv_choices.atexit, "register", lambda *_: None)
    _conv_choices.restore.cache_clear()
    return tmp_path / "convolutions"


def test_choices_survive_the_process(gpu):
    _library.C.add_convolution_choices(DEVICE, CHOICES)
    _conv_choices.keep(DEVICE)
    assert _conv_choices.cached() == {f"GPU {DEVICE}": CHOICES}
    _library.C.add_convolution_choices(DEVICE + 1, {})
    (file,) = gpu.iterdir()
    content = json.loads(file.read_text())
    file.with_name("other.json").write_text("{")  # a damaged file beside it
    _conv_choices._file(f"GPU {DEVICE + 1}").write_text(json.dumps(content | {"identity": f"GPU {DEVICE + 1}"}))
    assert _library.C.convolution_choices(DEVICE + 1) == {}
    _conv_choices.restore(DEVICE + 1)
    assert _library.C.convolution_choices(DEVICE + 1) == CHOICES


def test_what_another_process_has_found_meanwhile_stays(gpu):
    other = {"conv2d output, float32, x 9x9x9x9 nchw": ("aten", {})}
    file = _conv_choices._file(f"GPU {DEVICE}")
    file.parent.mkdir()
    file.write_text(json.dumps({"identity": f"GPU {DEVICE}", "choices": other}))
    _library.C.add_convolution_choices(DEVICE, CHOICES)
    _conv_choices.keep(DEVICE)
    assert _conv_choices.cached()[f"GPU {DEVICE}"] == other | CHOICES


def test_a_cache_that_cannot_be_written_is_none(gpu, monkeypatch):
    gpu.write_text("a file where the folder should be")
    _library.C.add_convolution_choices(DEVICE, CHOICES)
    _conv_choices.keep(DEVICE)
    assert _conv_choices.cached() == {}
    monkeypatch.setenv("FASTGAN_CACHE", "")
    _conv_choices.keep(DEVICE)
    assert _conv_choices.cached() == {}


def test_a_checkpoint_brings_its_choices_along_to_the_same_kind_of_device():
    _library.C.add_convolution_choices(DEVICE, CHOICES)
    state = _conv_choices.state(GPU)
    (key,) = CHOICES
    assert state == {"identity": f"GPU {DEVICE}", "choices": {key: "sm80"}}
    assert _conv_choices.state(torch.device("cpu")) == {}
    elsewhere = torch.device("cuda", DEVICE + 2)
    _conv_choices.load_state(state, elsewhere)
    assert _library.C.convolution_choices(DEVICE + 2) == {}
    _conv_choices.load_state(state | {"identity": f"GPU {DEVICE + 2}"}, elsewhere)
    assert _library.C.convolution_choices(DEVICE + 2) == {key: ("sm80", {})}


def test_info_shows_them():
    assert _info.convolutions() == "no convolution on a CUDA device has been timed yet"
    _library.C.add_convolution_choices(DEVICE, CHOICES)
    _conv_choices.keep(DEVICE)
    assert _info.info()["cuda_convolutions"] == {f"GPU {DEVICE}": "1 by sm80"}
    (key,) = CHOICES
    assert _info.convolutions() == f"GPU {DEVICE}\n  {key}: sm80 (sm80 1.5, aten 2.0 us)"
