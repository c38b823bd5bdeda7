"""Peak memory sees what the work allocates, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fastgan.bench.case import Case, Workload
from fastgan.bench.memory import peak_memory

MiB = 2**20


@dataclass(frozen=True)
class Allocate(Case):
    """Keeps ``kept`` MiB from the set-up on; a call takes ``passing`` MiB and returns them."""

    kept: int
    passing: int
    op: ClassVar[str] = "allocate"
    name: ClassVar[str] = "memory"
    modes: ClassVar[tuple[str, ...]] = ("step",)

    def providers(self, mode, compiled):
        return "eager", "fastgan"

    def setup(self, provider, dtype, device, upcast=False):
        torch.ones(256 * MiB // 4)  # the set-up's own peak does not count
        kept = torch.ones(self.kept * MiB // 4)
        return Workload({"step": lambda: (kept, torch.ones(self.passing * MiB // 4))}, dict)


@pytest.mark.parametrize(("kept", "passing"), [(0, 0), (64, 0), (32, 96)])
def test_peak_is_what_was_allocated(kept, passing):
    peak = peak_memory(Allocate(kept, passing), "eager", "step", torch.float32, torch.device("cpu"))
    assert peak is None or abs(peak - (kept + passing) * MiB) < 8 * MiB
