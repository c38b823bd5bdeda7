"""How fast this device copies and multiplies, measured in the run whose times are held against it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastgan.bench import timer
from fastgan.bench.floor import Work

__all__ = ["Ceilings", "copy", "measure"]

SETTINGS = timer.Settings(rounds=9, warmup=3, budget_s=4.0, least_sample_s=5e-3)


@dataclass(frozen=True)
class Ceilings:
    """Rates of this device: of a large copy, bytes read and written, and of a large square matrix product."""

    bytes_per_s: float
    flops_per_s: float

    def floor_s(self, work: Work) -> float:
        """The least time of ``work``: the longer of its two parts, which a perfect kernel overlaps."""
        return max(work.bytes / self.bytes_per_s, work.flops / self.flops_per_s)

    def bound_by(self, work: Work) -> str:
        return "bytes" if work.bytes / self.bytes_per_s >= work.flops / self.flops_per_s else "flops"


def copy(moved: int, device: torch.device):
    """A function that copies tensors so that ``moved`` bytes are read or written."""
    source = torch.randn(max(moved // 8, 1), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(device: torch.device, dtype: torch.dtype, copied: int = 2**32, width: int = 8192) -> Ceilings:
    """Copy ``copied`` bytes (half read, half written) and multiply two (width, width) matrices of ``dtype``.

    TF32 is used as torch is set; all values are random, because zeros multiply faster.
    """
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    functions = {"copy": copy(copied, device), "matmul": lambda: torch.mm(a, b, out=out)}
    timing = timer.interleave(functions, device, SETTINGS)
    return Ceilings(copied / timing.spread("copy").median, 2 * width**3 / timing.spread("matmul").median)
