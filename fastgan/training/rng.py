"""The random number generators a run draws from (torch CPU, the CUDA device, numpy, Python), as one value.

Training draws from the global generators, as any torch code does. What must not disturb it (sampling, metrics, loading
of data) runs inside ``isolated``, so that how often a run looks at itself changes nothing in what it learns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["equal", "get_state", "isolated", "mix", "seed_all", "set_state"]


def mix(*numbers: int) -> int:
    """One well-mixed 63-bit seed from several non-negative numbers, such as (seed, epoch)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_all(seed: int, device: torch.device | None = None) -> None:
    """Seed the CPU generators, and the CUDA device's where one is given."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def get_state(device: torch.device | None = None) -> dict[str, Any]:
    """State of all generators: tensors, tuples and numbers only."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_state(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Put back what ``get_state`` returned. A CUDA state is used only on a CUDA device."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(state["python"])
    if device is not None and device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def equal(a: Any, b: Any) -> bool:
    """Whether two results of ``get_state`` are the same."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@contextmanager
def isolated(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeded generators inside; afterwards every generator is where it was before."""
    before = get_state(device)
    seed_all(seed, device)
    try:
        yield
    finally:
        set_state(before, device)
