"""Rows of gradient_penalty: the penalty and its gradients in the critic's parameters, against double backward.

One mode, "both": the analytic path finds the gradients along with the value, so that its halves have no counterpart.
The second critic has instance norm, where the analytic path does not apply and fastgan takes double backward too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fastgan import ops
from fastgan.bench import networks
from fastgan.bench.case import (
    EAGER,
    GRADIENT,
    OURS,
    SEED,
    Case,
    Workload,
    autocast,
    implementation_of,
    is_ours,
    layout_of,
    working_dtype,
)
from fastgan.bench.floor import Network, Work
from fastgan.bench.shapes import BATCH_SIZE, CHANNELS, IMAGE_SIZE
from fastgan.ops import _piecewise_linear

__all__ = ["LAMBDA_GP", "GradientPenaltyCase", "cases", "penalty_by_double_backward", "penalty_path", "penalty_work"]

LAMBDA_GP = 10.0  # Gulrajani et al. (2017), Algorithm 1


@dataclass(frozen=True)
class GradientPenaltyCase(Case):
    critic: str  # "WGAN-GP" or "instance norm"
    bar: float
    batch_size: int = BATCH_SIZE
    image_size: int = IMAGE_SIZE
    ndf: int = 64
    quick: bool = False
    suffix: str = ""  # of the name

    op: ClassVar[str] = "gradient_penalty"
    modes: ClassVar[tuple[str, ...]] = ("both",)
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16)
    patience: ClassVar[float] = 2.0
    depth: ClassVar[int] = 10  # down and up again through five layers

    def cuda_goals(self, mode: str, precision: str) -> dict[str, float]:
        return {"strongest": 1.5} if self.critic == "WGAN-GP" else {}

    @property
    def name(self) -> str:
        return f"{self.critic} critic {self.image_size} px{self.suffix}"

    def work(self, mode: str, dtype: torch.dtype) -> Work:
        shape = (self.batch_size, CHANNELS, self.image_size, self.image_size)
        return penalty_work(Network.of(self._critic(torch.device("cpu"), False), *shape), dtype)

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        return (*EAGER, *OURS)  # torch.compile has no double backward

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        wide, layout = working_dtype(torch.float32, upcast), layout_of(provider)
        critic = self._critic(device, upcast).to(memory_format=layout)
        params = list(critic.parameters())
        real, fake, epsilon = (t.to(device, wide) for t in self._inputs())
        real, fake = (t.contiguous(memory_format=layout) for t in (real, fake))
        penalty = penalty_by_double_backward
        implementation = "PyTorch"
        if is_ours(provider):
            penalty = _penalty_by_fastgan
            implementation = f"{penalty_path(critic)}, {implementation_of('penalty', real, fake)}"

        def both() -> tuple[torch.Tensor, ...]:
            with autocast(dtype, device, upcast):
                value = penalty(critic, real, fake, epsilon)
            # a bias moves no input gradient: double backward gives None, or zeros, and the analytic path zeros
            return value, *torch.autograd.grad(value, params, allow_unused=True)

        def results() -> dict[str, torch.Tensor]:
            value, *grads = both()
            named = zip(critic.named_parameters(), grads, strict=True)
            found = {GRADIENT + n: torch.zeros_like(p) if g is None else g for (n, p), g in named}
            return {"penalty": value.detach(), **found}

        return Workload({"both": both}, results, implementation)

    def _critic(self, device: torch.device, upcast: bool) -> nn.Module:
        if self.critic == "WGAN-GP":
            options = {"image_size": self.image_size, "channels": CHANNELS, "ndf": self.ndf}
            return networks.build("wgan_gp", device, upcast, **options).critic
        critic = networks.instance_norm_critic(self.image_size, CHANNELS, self.ndf).to(device)
        return critic.double() if upcast else critic

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(SEED)
        shape = (self.batch_size, CHANNELS, self.image_size, self.image_size)
        real, fake = (torch.empty(shape).uniform_(-1, 1, generator=generator) for _ in range(2))
        return real, fake, torch.rand(self.batch_size, generator=generator)


def penalty_by_double_backward(
    critic: Callable[[torch.Tensor], torch.Tensor], real: torch.Tensor, fake: torch.Tensor, epsilon: torch.Tensor
) -> torch.Tensor:
    """The penalty as WGAN-GP code has it everywhere. epsilon (N,)."""
    x_hat = torch.lerp(fake, real, epsilon.view(-1, 1, 1, 1)).requires_grad_()
    logits = critic(x_hat)
    (grad,) = torch.autograd.grad(logits, x_hat, torch.ones_like(logits), create_graph=True)
    return LAMBDA_GP * (grad.flatten(1).norm(dim=1) - 1).square().mean()


def penalty_work(critic: Network, dtype: torch.dtype) -> Work:
    """The analytic path, the shorter of the two: forward, the input's gradient, and that gradient pulled back again.

    The last is a forward pass and the weights' gradients; its activations need no gradients of their own.
    """
    forward = critic.forward(dtype)
    weights = Work(critic.activations * dtype.itemsize, critic.flops)
    return forward + forward + forward + weights


def penalty_path(critic: nn.Module) -> str:
    """The method that gradient_penalty's "auto" takes for this critic."""
    try:
        _piecewise_linear.trace(critic)
    except _piecewise_linear.NotPiecewiseLinear:
        return "autograd"
    return "analytic"


def _penalty_by_fastgan(critic, real, fake, epsilon) -> torch.Tensor:
    return ops.gradient_penalty(critic, real, fake, weight=LAMBDA_GP, epsilon=epsilon, autocast=True)


def cases(batch_size: int = BATCH_SIZE, suffix: str = "") -> list[GradientPenaltyCase]:
    return [
        GradientPenaltyCase("WGAN-GP", 1.4, batch_size, quick=True, suffix=suffix),
        GradientPenaltyCase("instance norm", Case.bar, batch_size, suffix=suffix),
    ]
