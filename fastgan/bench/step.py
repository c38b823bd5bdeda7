"""Rows of whole training steps: a loop as anybody would write it, plain and with fastgan's pieces put in.

    dcgan            one update of the discriminator, one of the generator; Adam
    dcgan (Trainer)  the same; fastgan's side freezes the discriminator in the generator's update, as its Trainer does
    wgan critic      one update of the critic with BatchNorm; RMSProp, then the clip
    wgan-gp critic   one update of the critic without BatchNorm; Adam, gradient penalty
    generator (eval) no update: a batch of images from running statistics

Both sides run the same loop. fastgan's fuses the networks and exchanges the penalty and the optimiser. The plain side
takes Adam in its fused form, the fastest that PyTorch has; RMSProp and the clip as a loop and as foreach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

import fastgan
from fastgan import losses
from fastgan.bench import networks
from fastgan.bench.case import (
    COMPILED,
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
from fastgan.bench.clip_weights import CLIP_VALUE, CLIPS
from fastgan.bench.gradient_penalty import LAMBDA_GP, penalty_by_double_backward, penalty_path
from fastgan.bench.rmsprop import LEARNING_RATE
from fastgan.bench.shapes import BATCH_SIZE, CHANNELS, IMAGE_SIZE, Z_DIM

__all__ = ["ARCHITECTURES", "StepCase", "cases"]

EVAL = "generator (eval)"
ARCHITECTURES = {
    "dcgan": "dcgan",
    "dcgan (Trainer)": "dcgan",
    "wgan critic": "wgan",
    "wgan-gp critic": "wgan_gp",
    EVAL: "dcgan",
}
Losses = dict[str, torch.Tensor]


@dataclass
class Players:
    """What one provider brings to the loop."""

    generator: nn.Module
    critic: nn.Module
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    clip: Callable[[], None]  # after WGAN's update; does nothing where the optimiser has clipped already
    penalty: Callable[..., torch.Tensor]
    real: torch.Tensor
    z: torch.Tensor
    epsilon: torch.Tensor
    autocast: Callable[[], object]
    frozen_in_g: tuple[nn.Parameter, ...] = ()  # what is no part of the generator's update


def dcgan_step(p: Players) -> Losses:
    with p.autocast():
        fake = p.generator(p.z)
        loss_d = losses.non_saturating_discriminator(p.critic(p.real), p.critic(fake.detach()))
    p.optimizer_d.zero_grad()
    loss_d.backward()
    p.optimizer_d.step()
    for parameter in p.frozen_in_g:
        parameter.requires_grad_(False)
    with p.autocast():
        loss_g = losses.non_saturating_generator(p.critic(fake))
    p.optimizer_g.zero_grad()
    loss_g.backward()
    p.optimizer_g.step()
    for parameter in p.frozen_in_g:
        parameter.requires_grad_(True)
    return {"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}


def wgan_critic_step(p: Players) -> Losses:
    with p.autocast():
        with torch.no_grad():
            fake = p.generator(p.z)
        loss = losses.wasserstein_critic(p.critic(p.real), p.critic(fake))
    p.optimizer_d.zero_grad()
    loss.backward()
    p.optimizer_d.step()
    p.clip()
    return {"loss_d": loss.detach()}


def wgan_gp_critic_step(p: Players) -> Losses:
    with p.autocast():
        with torch.no_grad():
            fake = p.generator(p.z)
        adversarial = losses.wasserstein_critic(p.critic(p.real), p.critic(fake))
        penalty = p.penalty(p.critic, p.real, fake.to(p.real.dtype), p.epsilon)
    p.optimizer_d.zero_grad()
    (adversarial + penalty).backward()
    p.optimizer_d.step()
    # the penalty is a function of the critic's gradient, and errs as that does
    return {"adversarial": adversarial.detach(), f"{GRADIENT}penalty": penalty.detach()}


def generate(p: Players) -> dict[str, torch.Tensor]:
    with p.autocast(), torch.no_grad():
        return {"images": p.generator(p.z)}


STEPS = {
    "dcgan": dcgan_step,
    "dcgan (Trainer)": dcgan_step,
    "wgan critic": wgan_critic_step,
    "wgan-gp critic": wgan_gp_critic_step,
    EVAL: generate,
}


@contextmanager
def _frozen(players: Players) -> Iterator[None]:
    """Learning rates of 0: Adam's first update is the gradient's sign, which would blow up rounding errors."""
    groups = [group for o in (players.optimizer_g, players.optimizer_d) for group in o.param_groups]
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
    yield
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


@dataclass(frozen=True)
class StepCase(Case):
    architecture: str  # a key of ARCHITECTURES
    batch_size: int = BATCH_SIZE
    image_size: int = IMAGE_SIZE
    width: int = 64  # ngf = ndf
    memory_bar: float = 1.15
    quick: bool = True

    op: ClassVar[str] = "step"
    modes: ClassVar[tuple[str, ...]] = ("step",)
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16)
    depth: ClassVar[int] = 10
    patience: ClassVar[float] = 4.0

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.image_size} px, batch {self.batch_size}"

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        foreach = ("foreach", "foreach channels_last") if self.architecture == "wgan critic" else ()
        # torch.compile has no double backward
        compile_ = COMPILED if compiled and self.architecture != "wgan-gp critic" else ()
        return (*EAGER, *foreach, *compile_, *OURS)

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        players, implementation = self._players(provider, dtype, device, upcast)
        step = STEPS[self.architecture]
        players.generator.train(self.architecture != EVAL)

        def results() -> dict[str, torch.Tensor]:
            with _frozen(players):
                found = step(players)
            for net, module in (("critic", players.critic), ("generator", players.generator)):
                gradients = {f"{GRADIENT}{net}.{n}": p.grad for n, p in module.named_parameters() if p.grad is not None}
                # what the generator's update leaves in an unfrozen critic belongs to no update
                if module is not players.critic or "Trainer" not in self.architecture:
                    found |= gradients
                found |= {f"{net}.{n}": value.clone() for n, value in module.state_dict().items()}
            return found

        return Workload({"step": lambda: step(players)}, results, implementation)

    def _players(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool) -> tuple[Players, str]:
        wide, layout = working_dtype(torch.float32, upcast), layout_of(provider)
        options = {"image_size": self.image_size, "channels": CHANNELS, "z_dim": Z_DIM}
        options |= {"ngf": self.width, "ndf": self.width}
        gan = networks.build(ARCHITECTURES[self.architecture], device, upcast, **options).to(memory_format=layout)
        generator, critic = networks.networks_of(gan)
        real, z, epsilon = (t.to(device, wide) for t in self._inputs())
        real = real.contiguous(memory_format=layout)
        optimizer_g, optimizer_d, clip = self._optimizers(provider, generator, critic)
        penalty, implementation, frozen = penalty_by_double_backward, "PyTorch", ()
        if is_ours(provider):
            implementation = implementation_of("conv2d_bn_act", real, *critic.parameters())
            generator, critic = fastgan.fuse(generator), fastgan.fuse(critic)
            if self.architecture == "dcgan (Trainer)":
                frozen = tuple(critic.parameters())
            if self.architecture == "wgan-gp critic":
                implementation = f"{penalty_path(critic)}, {implementation}"

            def penalty(critic, real, fake, epsilon):
                return fastgan.ops.gradient_penalty(critic, real, fake, weight=LAMBDA_GP, epsilon=epsilon)
        elif provider.startswith("compile"):
            generator.compile()
            critic.compile()
        players = Players(
            generator, critic, optimizer_g, optimizer_d, clip, penalty, real, z, epsilon,
            lambda: autocast(dtype, device, upcast), frozen,
        )  # fmt: skip
        return players, implementation

    def _optimizers(self, provider: str, generator: nn.Module, critic: nn.Module):
        """(generator's, critic's, clip): as the papers have them, in the provider's form."""
        if self.architecture != "wgan critic":
            form = fastgan.optim.Adam if is_ours(provider) else partial(torch.optim.Adam, fused=True)
            adam = partial(form, lr=2e-4, betas=(0.5, 0.999))
            return adam(generator.parameters()), adam(critic.parameters()), lambda: None
        optimizer_g = torch.optim.RMSprop(generator.parameters(), lr=LEARNING_RATE)
        params = list(critic.parameters())
        if is_ours(provider):
            return optimizer_g, fastgan.optim.RMSprop(params, lr=LEARNING_RATE, clip_value=CLIP_VALUE), lambda: None
        foreach = provider.startswith("foreach")
        optimizer_d = torch.optim.RMSprop(params, lr=LEARNING_RATE, foreach=foreach)
        clip = CLIPS["foreach" if foreach else "loop"]
        return optimizer_g, optimizer_d, lambda: clip(params)

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(real, z, epsilon), float32 on the CPU."""
        generator = torch.Generator().manual_seed(SEED)
        shape = (self.batch_size, CHANNELS, self.image_size, self.image_size)
        real = torch.empty(shape).uniform_(-1, 1, generator=generator)
        z = torch.randn(self.batch_size, Z_DIM, generator=generator)
        return real, z, torch.rand(self.batch_size, generator=generator)


def cases(batch_size: int = BATCH_SIZE) -> list[StepCase]:
    return [StepCase(architecture, batch_size) for architecture in ARCHITECTURES]
