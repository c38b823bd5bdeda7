"""Batches that keep their place in memory, as CUDA graphs read them; filled while the graph before still runs.

From the loader to a replay: CPU tensors -> pinned memory -> the device's staging memory, by a stream of its own -> the
batch, by the stream of the replays, which is free to overwrite it since its replay before is over. Two stagings take
turns, so that copying a batch waits for nothing but the copy before the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from fastgan.data.batch import Batch
from fastgan.training.batches import is_bytes

__all__ = ["Staging", "StaticBatches", "Upload"]

Tensors = Mapping[str, torch.Tensor]


def _kind(values: Tensors) -> tuple:
    return tuple((name, value.shape, value.dtype) for name, value in values.items())


class Staging(Protocol):
    """Gives a batch's tensors where work on the current stream may read them, inside a with statement."""

    def __call__(self, values: Tensors) -> AbstractContextManager[Tensors]: ...


class StaticBatches:
    """Writes every batch of a kind (names, shapes, dtypes) into the same tensors; pictures become floats on the way."""

    def __init__(self, device: torch.device, staging: Staging) -> None:
        self.device = device
        self._staging = staging
        self._batches: dict[tuple, Batch] = {}

    def __call__(self, values: Tensors) -> Batch:
        kind = _kind(values)
        if kind not in self._batches:
            self._batches[kind] = Batch(**{name: self._place(name, value) for name, value in values.items()})
        batch = self._batches[kind]
        with self._staging(values) as staged:
            for name, value in staged.items():
                place = getattr(batch, name).copy_(value)
                if is_bytes(name, value):
                    place.div_(127.5).sub_(1.0)
        return batch

    def _place(self, name: str, value: torch.Tensor) -> torch.Tensor:
        dtype = torch.float32 if is_bytes(name, value) else value.dtype
        return torch.empty_like(value, dtype=dtype, device=self.device)


class Upload:
    """The staging of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self._slots: dict[tuple, list[_Slot]] = {}  # of a kind of batch, the next one first

    @contextmanager
    def __call__(self, values: Tensors) -> Iterator[Tensors]:
        kind = _kind(values)
        if kind not in self._slots:
            self._slots[kind] = [_Slot(values, self.device) for _ in range(2)]
        slot = self._slots[kind].pop(0)
        self._slots[kind].append(slot)
        slot.copied.synchronize()  # on the host: the copy from its pinned memory two batches ago
        pinned = {n: v if v.is_pinned() else slot.pinned[n].copy_(v) for n, v in values.items()}
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(slot.read)
            for name, value in pinned.items():
                slot.staged[name].copy_(value, non_blocking=True)
            slot.copied.record(self.stream)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(slot.copied)
        yield slot.staged
        slot.read.record(current)


class _Slot:
    """Room for one batch on the host and on the device, with the events after which each may be overwritten."""

    def __init__(self, values: Tensors, device: torch.device) -> None:
        self.pinned = {n: torch.empty_like(v, device="cpu", pin_memory=True) for n, v in values.items()}
        self.staged = {n: torch.empty_like(v, device=device) for n, v in values.items()}
        self.copied = torch.cuda.Event()
        self.read = torch.cuda.Event()
        self.read.record(torch.cuda.current_stream(device))  # the memory may have been another tensor's until here
