"""Means of the losses over an interval, kept as tensors so that training never waits for a value."""

from __future__ import annotations

import torch

__all__ = ["Meter"]


class Meter:
    """Adds scalar tensors by name; ``means`` reads all of them in one transfer from the device."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    @torch.no_grad()
    def add(self, name: str, value: torch.Tensor) -> None:
        value = value.detach().reshape(())
        if name in self.sums:
            self.sums[name] += value
            self.counts[name] += 1
        else:
            self.sums[name] = value.float().clone()  # clone: what a CUDA graph returns is overwritten by its next run
            self.counts[name] = 1

    def means(self) -> dict[str, float]:
        """Mean of every name since the last reset; waits for the device. A NaN or infinite value shows in its mean."""
        if not self.sums:
            return {}
        totals = torch.stack(list(self.sums.values())).tolist()
        return {name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)}

    def reset(self) -> None:
        self.sums.clear()
        self.counts.clear()

    def state_dict(self) -> dict:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self.sums = {name: value.to(device).clone() for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])
