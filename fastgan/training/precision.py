"""The number format in which networks compute: autocast around a phase's loss, and for float16 a scaler a phase.

float32    as the weights are
bfloat16   autocast; float32's range, so that nothing overflows that did not before
float16    autocast, and a ``torch.amp.GradScaler`` for each phase: the loss is multiplied by a power of two, so that
           small gradients do not round to zero; an update whose gradients overflow is left out and the factor halved.
           One a phase, because each optimiser's gradients have a size of their own.
auto       bfloat16 on a GPU that computes in it (capability 8.0 and above), float32 elsewhere: on a CPU with
           AVX512-BF16 a step of the fused DCGAN took 1.1 (32 px) to 1.25 (64 px) times as long in bfloat16

Weights, optimisers, averages and losses stay float32 (fastgan.losses reduces there), and so do gradient penalties
(fastgan.ops.gradient_penalty computes in float32 under autocast). Nothing here waits for the device but ``record`` and
``state_dict``; torch's scaler itself waits in every update of an optimiser that is not fused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["PRECISIONS", "Precision", "choose_precision"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def choose_precision(name: str, device: torch.device) -> str:
    """What ``name`` means on ``device``: one of ``PRECISIONS`` but "auto"."""
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; it takes one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if fast else "float32"


class Precision:
    """Takes losses, gradients and steps in precision ``name`` on ``device``.

    ``skipped``: by phase, the updates left out since the run began; float16's alone.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.skipped: dict[str, torch.Tensor] = {}
        self._scalers: dict[str, torch.amp.GradScaler] = {}

    def autocast(self) -> AbstractContextManager:
        """Around the computation of a loss, not around its backward pass."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.name))

    def step(
        self,
        phase: str,
        loss: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        average: Callable[[], None] | None = None,
    ) -> None:
        """Backward and the optimiser's step; afterwards ``p.grad`` are the gradients of ``loss`` itself.

        ``average``: of the gradients over several processes, between the two; before they are unscaled, so that all
        processes see the same overflow.
        """
        if self.name != "float16":
            loss.backward()
            if average is not None:
                average()
            optimizer.step()
            return
        scaler = self._scaler(phase)
        one = torch.ones((), device=self.device)
        scaler.scale(loss).backward()
        if average is not None:
            average()
        scaler.unscale_(optimizer)
        before = scaler.scale(one)
        scaler.step(optimizer)
        scaler.update()
        self.skipped[phase] += scaler.scale(one) < before  # it falls after an overflow, and only then

    def _scaler(self, phase: str) -> torch.amp.GradScaler:
        if phase not in self._scalers:
            self._scalers[phase] = torch.amp.GradScaler(self.device.type)
            self.skipped[phase] = torch.zeros((), dtype=torch.int64, device=self.device)
        return self._scalers[phase]

    def forget_attempt(self, phase: str) -> None:
        """After an update of ``phase`` that was broken off: its scaler would not begin what it believes half done."""
        if phase in self._scalers:
            scaler = torch.amp.GradScaler(self.device.type)
            scaler.load_state_dict(self._scalers[phase].state_dict())
            self._scalers[phase] = scaler

    def record(self) -> dict[str, int]:
        """For the run's records: updates left out so far."""
        return {f"{phase}/skipped": int(count) for phase, count in self.skipped.items()}

    def exhausted(self) -> list[str]:
        """Phases whose gradients overflow at any scale: halving has gone below 1, where it was to lift small values."""
        return [phase for phase, scaler in self._scalers.items() if scaler.get_scale() < 1.0]

    def state_dict(self) -> dict[str, Any]:
        return {
            phase: {"scaler": scaler.state_dict(), "skipped": int(self.skipped[phase])}
            for phase, scaler in self._scalers.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.name != "float16":  # the run went on in another precision
            return
        for phase, values in state.items():
            self._scaler(phase).load_state_dict(values["scaler"])
            self.skipped[phase].fill_(values["skipped"])
