"""Rows of clip_weights_: all parameters of a critic clamped, against the clamp_ loop and foreach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fastgan import ops
from fastgan.bench import networks
from fastgan.bench.case import Case, Workload, base_of, implementation_of, working_dtype
from fastgan.bench.floor import Work, bytes_of

__all__ = ["CRITICS", "ClipWeightsCase", "cases"]

CLIP_VALUE = 0.01  # Arjovsky et al. (2017), Algorithm 1
# WGAN's two critics: convolutions with BatchNorm (2.8 million parameters at 64 px) and perceptrons (6.8 million)
CRITICS = {"DCGAN critic": "dcgan", "MLP critic": "mlp"}


@dataclass(frozen=True)
class ClipWeightsCase(Case):
    critic: str
    image_size: int = 64
    ndf: int = 64
    hidden: int = 512
    quick: bool = False

    op: ClassVar[str] = "clip_weights_"
    modes: ClassVar[tuple[str, ...]] = ("step",)
    rotates: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"{self.critic} {self.image_size} px"

    def work(self, mode: str, dtype: torch.dtype) -> Work:
        return self.work_of(self.op, dtype)

    def work_of(self, op: str, dtype: torch.dtype) -> Work:
        """What ``op`` has to move for the critic's parameters."""
        return Work(bytes_of(op, [p.shape for p in self.parameters(torch.device("meta"), dtype)], dtype))

    def parameters(self, device: torch.device, dtype: torch.dtype) -> list[torch.nn.Parameter]:
        gan = networks.build(
            "wgan", device, critic=CRITICS[self.critic], image_size=self.image_size, ndf=self.ndf, hidden=self.hidden
        )
        return [torch.nn.Parameter(p.detach().to(dtype)) for p in gan.critic.parameters()]

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        return "loop", "foreach", "fastgan"

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        params = self.parameters(device, working_dtype(dtype, upcast))
        clip, implementation = CLIPS[base_of(provider)], "PyTorch"
        if base_of(provider) == "fastgan":
            implementation = implementation_of(self.op, *params)

        def step() -> None:
            clip(params)

        def results() -> dict[str, torch.Tensor]:
            step()
            return {f"parameter {i}": p.detach() for i, p in enumerate(params)}

        return Workload({"step": step}, results, implementation, lambda: [p.detach() for p in params])


def clip_in_a_loop(params: list[torch.nn.Parameter]) -> None:
    """What WGAN's authors and most code after them write."""
    for p in params:
        p.data.clamp_(-CLIP_VALUE, CLIP_VALUE)


@torch.no_grad()
def clip_by_foreach(params: list[torch.nn.Parameter]) -> None:
    torch._foreach_clamp_min_(params, -CLIP_VALUE)
    torch._foreach_clamp_max_(params, CLIP_VALUE)


def clip_by_fastgan(params: list[torch.nn.Parameter]) -> None:
    ops.clip_weights_(params, CLIP_VALUE)


CLIPS = {"loop": clip_in_a_loop, "foreach": clip_by_foreach, "fastgan": clip_by_fastgan}


def cases() -> list[ClipWeightsCase]:
    return [ClipWeightsCase(critic, quick=critic == "DCGAN critic") for critic in CRITICS]
