"""What timed trials chose for convolutions on CUDA devices: kept on disk between processes, and in checkpoints.

The trials themselves are csrc/ops/conv_trial_cuda.h. A choice holds for one kind of device: GPU, driver, torch, cuDNN
and the build of fastgan, together an `identity`, which names a file of the cache. The cache is a convenience: a file
that cannot be read or written is as good as none. It lies in the folder of fastgan/_cache.py.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import torch

from fastgan._cache import cache_folder
from fastgan.ops import _library

__all__ = ["cached", "fixed", "identity", "keep", "load_state", "restore", "state"]

# {call in words: (kernel, {candidate: microseconds})}
Choices = dict[str, tuple[str, dict[str, float]]]


def _folder() -> Path | None:
    folder = cache_folder()
    return folder and folder / "convolutions"


@lru_cache
def identity(device: int) -> str:
    """What a choice on this CUDA device depends on besides the call."""
    properties = torch.cuda.get_device_properties(device)
    driver = torch._C._cuda_getDriverVersion()
    build = zlib.crc32(Path(_library.C.__file__).read_bytes())
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, driver {driver}, "
        f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, fastgan build {build:08x}"
    )


def _file(name: str) -> Path | None:
    folder = _folder()
    return folder and folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> tuple[str, Choices]:
    """(identity, choices) of a file of the cache; ("", {}) where it is damaged or gone."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        choices = {key: (kernel, dict(times)) for key, (kernel, times) in content["choices"].items()}
        return content["identity"], choices
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", {}


def cached() -> dict[str, Choices]:
    """Everything in the cache, by identity."""
    folder = _folder()
    found = map(_read, sorted(folder.glob("*.json"))) if folder and folder.is_dir() else ()
    return {name: choices for name, choices in found if name}


@lru_cache
def restore(device: int) -> None:
    """Take what the cache holds for this CUDA device; once a process. What is found out later is kept when it ends."""
    name = identity(device)
    file = _file(name)
    if file is not None:
        kept, choices = _read(file)
        if kept == name:
            _library.C.add_convolution_choices(device, choices)
    atexit.register(keep, device)


def keep(device: int) -> None:
    """Write what is known of this CUDA device to the cache, beside what other processes have found meanwhile."""
    name, choices = identity(device), _library.C.convolution_choices(device)
    file = _file(name)
    if file is None or not choices:
        return
    kept, others = _read(file)
    if kept == name:
        choices = others | choices
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"identity": name, "choices": choices}, indent=1), encoding="utf-8")
        os.replace(temporary, file)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def state(device: torch.device) -> dict[str, object]:
    """For a checkpoint: the identity of the device and what was chosen on it; empty where it is no CUDA device."""
    if device.type != "cuda" or not _library.LOADED:
        return {}
    index = _index(device)
    kernels = {key: kernel for key, (kernel, _) in _library.C.convolution_choices(index).items()}
    return {"identity": identity(index), "choices": kernels}


def load_state(state: Mapping[str, object], device: torch.device) -> None:
    """Go on with the choices of a checkpoint, where it comes from the same kind of device."""
    if not state or device.type != "cuda" or not _library.LOADED:
        return
    index = _index(device)
    restore(index)
    if state["identity"] == identity(index):
        _library.C.add_convolution_choices(index, {key: (kernel, {}) for key, kernel in state["choices"].items()})


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Inside, choices follow from the call alone: no trial, none of its results."""
    if not _library.LOADED:
        yield
        return
    _library.C.set_convolution_plan("fixed")
    try:
        yield
    finally:
        _library.C.set_convolution_plan("auto")
