"""Means of the losses over an interval, kept as tensors so that training never waits for a value."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["Meter"]


class Meter:
    """Sums scalar tensors by name; ``means`` reads all of them in one transfer from the device.

    What touches the device and what only counts are two calls, because a CUDA graph repeats the first alone; and a sum
    stays the same tensor for good, because a graph adds to the address that it was recorded with.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}  # of this interval, in the order of their first appearance

    @torch.no_grad()
    def add(self, name: str, value: torch.Tensor) -> None:
        if name not in self.sums:
            self.sums[name] = torch.zeros((), device=value.device)
        self.sums[name] += value.detach().reshape(())

    def count(self, names: Iterable[str]) -> None:
        """Each of ``names`` was added once."""
        for name in names:
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Mean of every name since the last reset; waits for the device. A NaN or infinite value shows in its mean."""
        if not self.counts:
            return {}
        totals = torch.stack([self.sums[name] for name in self.counts]).tolist()
        return {name: total / count for (name, count), total in zip(self.counts.items(), totals, strict=True)}

    def reset(self) -> None:
        self.counts.clear()
        for value in self.sums.values():
            value.zero_()

    def state_dict(self) -> dict:
        return {"sums": {name: self.sums[name] for name in self.counts}, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self.sums = {name: value.to(device).clone() for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])
