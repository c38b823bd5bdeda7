"""Rows of optim.RMSprop(clip_value=): step and clip in one pass, against torch.optim.RMSprop followed by a clip.

PyTorch's side: the optimiser's loop or its foreach form, each with the clip of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fastgan.bench.case import SEED, Case, Workload, base_of, implementation_of, is_graphed, working_dtype
from fastgan.bench.clip_weights import CLIP_VALUE, CLIPS, CRITICS, ClipWeightsCase
from fastgan.bench.floor import Work
from fastgan.optim import RMSprop

__all__ = ["LEARNING_RATE", "RMSpropCase", "cases", "tensors_of"]

LEARNING_RATE = 5e-5  # Arjovsky et al. (2017), Algorithm 1
GRADIENT_SCALE = 1e-3


@dataclass(frozen=True)
class RMSpropCase(Case):
    parameters_of: ClipWeightsCase
    bar: float = 1.5
    quick: bool = False

    op: ClassVar[str] = "rmsprop_clip_"
    modes: ClassVar[tuple[str, ...]] = ("step",)
    rotates: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.parameters_of.name

    def work(self, mode: str, dtype: torch.dtype) -> Work:
        return self.parameters_of.work_of(self.op, dtype)

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        return "loop", "foreach", "fastgan"

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        wide = working_dtype(dtype, upcast)
        params = self.parameters_of.parameters(device, wide)
        generator = torch.Generator().manual_seed(SEED)
        for p in params:
            p.grad = (torch.randn(p.shape, generator=generator) * GRADIENT_SCALE).to(device, wide)
        implementation, base = "PyTorch", base_of(provider)
        options = {"lr": LEARNING_RATE, "capturable": is_graphed(provider) and device.type == "cuda"}
        if base == "fastgan":
            optimizer = RMSprop(params, clip_value=CLIP_VALUE, **options)
            step = optimizer.step
            implementation = implementation_of(self.op, *params)
        else:
            optimizer = torch.optim.RMSprop(params, foreach=base == "foreach", **options)
            clip = CLIPS[base]

            def step() -> None:
                optimizer.step()
                clip(params)

        def results() -> dict[str, torch.Tensor]:
            for _ in range(2):
                step()
            found = {f"parameter {i}": p.detach() for i, p in enumerate(params)}
            return found | {f"square_avg {i}": optimizer.state[p]["square_avg"] for i, p in enumerate(params)}

        def state() -> list[torch.Tensor]:
            return [p.detach() for p in params] + tensors_of(optimizer)

        return Workload({"step": step}, results, implementation, state)


def tensors_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Everything that a step of the optimiser keeps."""
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]


def cases() -> list[RMSpropCase]:
    return [RMSpropCase(ClipWeightsCase(critic), quick=critic == "DCGAN critic") for critic in CRITICS]
