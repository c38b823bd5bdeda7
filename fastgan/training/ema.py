"""Exponential moving average of an architecture's generators, used for samples, metrics and `load_run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fastgan.architectures.base import Architecture

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Averages the parameters of ``architecture.generators``; buffers (BatchNorm's running statistics and counters) are
    copied, since averaged weights without them generate noise in eval mode.

    At update t (from 0) the average moves by ``1 - min(decay, (1 + t) / (10 + t))`` towards the weights: the warm-up
    lets short runs forget their initialisation. ``decay=0`` follows the weights exactly. The average is kept as
    tensors, in the dtype and memory format of the weights, under the architecture's own ``state_dict`` names.
    """

    def __init__(self, architecture: Architecture, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay is {decay}; it takes a number from 0 (off) up to, not including, 1")
        for name in architecture.generators:
            if not isinstance(getattr(architecture, name, None), nn.Module):
                raise ValueError(
                    f"{type(architecture).__name__}.generators names {name!r}, which is no submodule of it"
                )
        self.decay = decay
        self.updates = 0
        self._architecture = architecture
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._live().items()}
        device = next((tensor.device for tensor in self.tensors.values()), None)
        self._weight = torch.zeros((), dtype=torch.float64, device=device)  # of the next update, where a graph reads it

    def _live(self) -> dict[str, torch.Tensor]:
        """The generators' parameters and buffers as they are now; modules may replace a buffer by assignment."""
        live, seen = {}, set()
        for name in self._architecture.generators:
            state = getattr(self._architecture, name).state_dict(prefix=f"{name}.", keep_vars=True)
            for key, tensor in state.items():
                if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:  # tied weights are averaged once
                    seen.add(id(tensor))
                    live[key] = tensor
        return live

    def update(self) -> None:
        """Move the average towards the present weights: one fused lerp, one fused copy."""
        self._move(1.0 - self._decay())
        self.updates += 1

    def advance(self) -> None:
        """The host's half of ``update`` for a CUDA graph: the weight, which ``apply`` reads on the device."""
        self._weight.fill_(1.0 - self._decay())
        self.updates += 1

    def apply(self) -> None:
        """The device's half; after ``advance``, the same numbers as ``update``."""
        self._move(self._weight)

    def _decay(self) -> float:
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def _move(self, weight: float | torch.Tensor) -> None:
        averages, weights, copies, buffers = [], [], [], []
        for key, tensor in self._live().items():
            average = isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
            (averages if average else copies).append(self.tensors[key])
            (weights if average else buffers).append(tensor.detach())
        if averages:
            if isinstance(weight, torch.Tensor):
                by_dtype = {dtype: weight.to(dtype) for dtype in {average.dtype for average in averages}}
                weight = [by_dtype[average.dtype] for average in averages]
            torch._foreach_lerp_(averages, weights, weight)
        if copies:
            torch._foreach_copy_(copies, buffers)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the generators hold the average; afterwards, also after an exception, their own values again.

        Tensors exchange their storage: nothing is copied, and whoever else refers to a module sees the average too.
        """
        live = self._live()
        self._exchange(live)
        try:
            yield
        finally:
            self._exchange(live)

    def _exchange(self, live: dict[str, torch.Tensor]) -> None:
        for key, tensor in live.items():
            tensor.data, self.tensors[key].data = self.tensors[key].data, tensor.data

    def state_dict(self) -> dict:
        return {"updates": self.updates, "tensors": dict(self.tensors)}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for key, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][key])
