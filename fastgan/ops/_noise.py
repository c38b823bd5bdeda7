"""Random numbers, one row a sample, of a batch that several processes share.

A process that holds a part of a joint batch draws for all of it, from a generator that stands at the same place in
every process, and takes the rows of its own samples: k processes see the noise that one would with the whole batch.
Outside of ``shared`` these are torch.rand and torch.randn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

__all__ = ["rand", "randn", "shared"]


class _Part(NamedTuple):
    rank: int  # whose samples are [rank * size, (rank + 1) * size) of the joint batch
    world: int
    size: int
    generator: torch.Generator


_part: _Part | None = None


@contextmanager
def shared(rank: int, world: int, size: int, generator: torch.Generator) -> Iterator[None]:
    """Inside, this process holds ``size`` samples, the ``rank``-th part of ``world`` equal ones, of the joint batch."""
    global _part
    before, _part = _part, _Part(rank, world, size, generator)
    try:
        yield
    finally:
        _part = before


def rand(*shape: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """torch.rand; of a shared batch where shape[0] is its number of samples here."""
    return _draw(torch.rand, shape, device, dtype)


def randn(*shape: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """torch.randn; of a shared batch where shape[0] is its number of samples here."""
    return _draw(torch.randn, shape, device, dtype)


def _draw(draw: Callable, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # Other numbers of rows may differ between the processes, whose shared generators would then drift apart.
    if _part is None or shape[0] != _part.size or device != _part.generator.device:
        return draw(shape, device=device, dtype=dtype)
    rows = draw((_part.world * shape[0], *shape[1:]), generator=_part.generator, device=device, dtype=dtype)
    return rows[_part.rank * shape[0] : (_part.rank + 1) * shape[0]]
