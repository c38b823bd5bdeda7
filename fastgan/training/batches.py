"""From a map-style data set to an endless, resumable stream of batches.

The order of items is a permutation drawn from (seed, epoch). The position is one number, the batches consumed so far,
and all that a checkpoint needs. Reading ahead in worker processes does not move it.

What a data set offers:
    __len__() and __getitem__(i)   item i: a dict of tensors named as the fields of Batch, (image, label), or an image.
                                   Images are float in [-1, 1], or uint8 0..255, (C, H, W).
    batch(indices)                 optional: a dict of stacked tensors for a list of indices, faster than item by item.
    set_epoch(epoch)               optional: called before an epoch's first item, for augmentation by (epoch, i).
    draws_random                   optional: False promises that batch(indices) draws no random numbers and may be
                                   called by another thread, which then reads ahead where training is on a GPU.
A data set that draws from the global generators instead gets them seeded, by (seed, epoch, i) for an item and by (seed,
position, rank) for a batch: the same images come with any number of workers and after any resume, and training's own
random numbers are not touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from fastgan.data.batch import Batch
from fastgan.training import rng

__all__ = ["BatchStream", "is_bytes", "to_device"]

_FIELDS = tuple(f.name for f in fields(Batch))
_PICTURES = ("image", "source")  # fields that may come as uint8
READ_AHEAD = 2  # batches that a thread reads while training is at the one before


class BatchStream:
    """Endless batches of ``dataset`` on ``device``.

    The last, incomplete batch of an epoch is dropped; a data set smaller than ``batch_size`` is one batch an epoch.
    ``num_classes``: labels lie below it; a wrong one is named before a GPU stops at it without a word. ``unlabelled``:
    whether items may have the label -1, none.
    ``rank``, ``world``: of several processes, each gives its own part of every batch, in the order of their ranks.
    ``position``: batches consumed since the run began; set it before the first ``next()`` to resume.
    ``place``: takes a dict of tensors on the CPU to a Batch on the device; may be exchanged for one that reuses memory.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        num_workers: int = 0,
        num_classes: int | None = None,
        unlabelled: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.size = _length(dataset)
        self.dataset = dataset
        self.batch_size = min(batch_size, self.size)
        if self.batch_size % world:
            raise ValueError(
                f"batch_size is {self.batch_size}, the joint batch of {world} processes: take a multiple of {world}"
            )
        self._rank, self._world = rank, world
        self.seed = seed
        self.device = device or torch.device("cpu")
        self.num_workers = num_workers
        self._labels = None if num_classes is None else range(-1 if unlabelled else 0, num_classes)
        self.batches_per_epoch = self.size // self.batch_size
        self.position = 0
        # On a CPU a second thread would take its cores from training, which a batch from memory costs less than 1%.
        self.by_thread = num_workers == 0 and self.device.type == "cuda" and _pure(dataset)
        self.place: Callable[[dict[str, torch.Tensor]], Batch] = partial(to_device, device=self.device)
        self._ahead: Iterator[dict[str, torch.Tensor]] = iter(())

    def next(self) -> Batch:
        """The batch at ``position``, which then moves on by one."""
        values = next(self._ahead, None)
        if values is None:
            self._ahead = self._rest_of_epoch()
            values = next(self._ahead)
        self.position += 1
        return self.place(values)

    def first(self, n: int) -> Batch:
        """Items 0..n-1 as epoch 0 gives them (fewer if the data set is smaller); does not move the position."""
        self._set_epoch(0)
        return to_device(self._collated(0)[-1, list(range(min(n, self.size)))], self.device)

    @property
    def epoch(self) -> float:
        return self.position / self.batches_per_epoch

    def close(self) -> None:
        """Stop reading ahead; ``next()`` goes on from ``position``."""
        self._ahead = iter(())

    def _rest_of_epoch(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch, done = divmod(self.position, self.batches_per_epoch)
        self._set_epoch(epoch)
        generator = torch.Generator().manual_seed(rng.mix(self.seed, epoch))
        order = torch.randperm(self.size, generator=generator)
        part = self.batch_size // self._world
        firsts = [i * self.batch_size + self._rank * part for i in range(self.batches_per_epoch)]
        keys = [
            (epoch * self.batches_per_epoch + i, order[firsts[i] : firsts[i] + part].tolist())
            for i in range(done, self.batches_per_epoch)
        ]
        collated = self._collated(epoch)
        if self.by_thread:
            return _read_ahead(collated, keys, pin=self.device.type == "cuda")
        if self.num_workers == 0:
            return (collated[key] for key in keys)
        # workers begin anew each epoch, so that they see set_epoch; the generator keeps torch's global one untouched
        return iter(
            DataLoader(
                collated,
                batch_size=None,
                sampler=keys,
                num_workers=self.num_workers,
                pin_memory=self.device.type == "cuda",
                generator=generator,
            )
        )

    def _collated(self, epoch: int) -> _Collated:
        return _Collated(self.dataset, self.seed, epoch, self._labels, self._rank)

    def _set_epoch(self, epoch: int) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def _pure(dataset: Any) -> bool:
    return not getattr(dataset, "draws_random", True) and hasattr(dataset, "batch")


def _read_ahead(
    collated: _Collated, keys: Sequence[tuple[int, list[int]]], *, pin: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of ``keys``, the next ones being read by a thread, into memory that a GPU copies from by itself."""

    def read(key: tuple[int, list[int]]) -> dict[str, torch.Tensor]:
        values = collated[key]
        return {name: value.pin_memory() for name, value in values.items()} if pin else values

    with ThreadPoolExecutor(1, "fastgan-data") as thread:
        waiting: deque[Future] = deque()
        for key in keys:
            waiting.append(thread.submit(read, key))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def to_device(values: Mapping[str, torch.Tensor], device: torch.device) -> Batch:
    """Move to the device (uint8 travels as uint8), then scale pictures to [-1, 1]."""
    moved = {name: value.to(device, non_blocking=True) for name, value in values.items()}
    for name, value in moved.items():
        if is_bytes(name, value):
            moved[name] = value.float().div_(127.5).sub_(1.0)
    return Batch(**moved)


def is_bytes(name: str, value: torch.Tensor) -> bool:
    """Whether a field holds pictures as bytes 0..255."""
    return name in _PICTURES and value.dtype == torch.uint8


class _Collated(torch.utils.data.Dataset):
    """A data set of whole batches: key (position, indices) to a dict of stacked tensors."""

    def __init__(self, dataset: Any, seed: int, epoch: int, labels: range | None, rank: int) -> None:
        self.dataset = dataset
        self.seed = seed if rank == 0 else rng.mix(seed, rank)
        self.epoch_seed = rng.mix(seed, epoch, 1)
        self.labels = labels
        self.pure = _pure(dataset)

    def __getitem__(self, key: tuple[int, list[int]]) -> dict[str, torch.Tensor]:
        position, indices = key
        with nullcontext() if self.pure else rng.isolated(rng.mix(self.seed, position + 1)):
            if hasattr(self.dataset, "batch"):
                values = {name: _tensor(name, value) for name, value in self.dataset.batch(indices).items()}
            else:
                values = _stack([self._item(i) for i in indices], indices)
        unknown = [name for name in values if name not in _FIELDS]
        if unknown:
            raise ValueError(f"the data set gives {unknown[0]!r}, which is no field of Batch: {', '.join(_FIELDS)}")
        values.setdefault("index", torch.tensor(indices))
        if self.labels is not None and "label" in values:
            _check_labels(values["label"], values["index"], self.labels)
        return values

    def _item(self, index: int) -> Mapping[str, Any]:
        rng.seed_all(self.epoch_seed + index)
        return _named(self.dataset[index])


def _length(dataset: Any) -> int:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(f"data is a {type(dataset).__name__}; it takes a map-style data set (__len__ and __getitem__)")
    if len(dataset) == 0:
        raise ValueError("data is empty: the data set has no items")
    return len(dataset)


def _named(item: Any) -> Mapping[str, Any]:
    """What a data set's item means: a dict as it is, (image, label), (image,), or an image alone."""
    if isinstance(item, Mapping):
        return item
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) in (1, 2):
        return dict(zip(("image", "label"), item, strict=False))
    if isinstance(item, Sequence):
        raise TypeError(
            f"a data set's item has {len(item)} parts; give a dict named as Batch fields: {', '.join(_FIELDS)}"
        )
    return {"image": item}


def _tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor of a dtype that training uses: float64 becomes float32, small integers int64 (uint8 pictures stay)."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    elif isinstance(value, (bool, int, float, np.generic)):
        value = torch.as_tensor(value)
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"the data set gives {name!r} as a {type(value).__name__}; it takes a tensor, an array or a number"
        )
    if value.is_floating_point():
        return value.float()
    return value if value.dtype == torch.uint8 and name in _PICTURES else value.long()


def _check_labels(labels: torch.Tensor, indices: torch.Tensor, allowed: range) -> None:
    """Class indices in ``allowed``, where -1 is unlabelled; attributes (N, K) may be anything."""
    if labels.dim() != 1 or labels.is_floating_point():
        return
    wrong = (labels < allowed.start) | (labels >= allowed.stop)
    if wrong.any():
        at = wrong.nonzero()[0, 0]
        item, classes = f"item {indices[at]} of the data", f"0..{allowed.stop - 1}"
        if allowed.start == 0 and labels[at] == -1:
            raise ValueError(f"{item} has no label (-1), by which images are to be drawn: give it one of {classes}")
        also = ", or -1: unlabelled" if allowed.start < 0 else ""
        raise ValueError(f"{item} has label {labels[at]}; it takes {classes}{also}")


def _stack(items: list[Mapping[str, Any]], indices: list[int]) -> dict[str, torch.Tensor]:
    stacked = {}
    for name in items[0]:
        values = [_tensor(name, item[name]) for item in items]
        shapes = [tuple(value.shape) for value in values]
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(
                f"{name!r} of item {indices[odd]} has shape {shapes[odd]}, that of item {indices[0]} {shapes[0]}: "
                "items of one data set share a shape"
            )
        stacked[name] = torch.stack(values)
    return stacked
