"""Rows of whole training steps: a loop as anybody would write it, plain and with fastgan's pieces put in.

    dcgan            one update of the discriminator, one of the generator; Adam
    dcgan (Trainer)  the same; fastgan's side freezes the discriminator in the generator's update, as its Trainer does
    wgan critic      one update of the critic with BatchNorm; RMSProp, then the clip
    wgan-gp critic   one update of the critic without BatchNorm; Adam, gradient penalty

Both sides run the same loop. fastgan's fuses the networks and exchanges the penalty and the optimiser. The plain side
takes Adam in its fused form, the fastest that PyTorch has; RMSProp and the clip as a loop and as foreach. Compiled are
its networks, all but the penalty's double backward, which torch.compile cannot do. A graph captures the whole step with
its optimisers, on either side.
"""

from __future__ import annotations

import copy
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
    base_of,
    begin_step,
    compile_options,
    implementation_of,
    is_graphed,
    is_ours,
    layout_of,
    working_dtype,
)
from fastgan.bench.clip_weights import CLIP_VALUE, CLIPS
from fastgan.bench.floor import Network, Work
from fastgan.bench.gradient_penalty import LAMBDA_GP, penalty_by_double_backward, penalty_path, penalty_work
from fastgan.bench.rmsprop import LEARNING_RATE, tensors_of
from fastgan.bench.shapes import BATCH_SIZE, CHANNELS, IMAGE_SIZE, Z_DIM

__all__ = ["ARCHITECTURES", "StepCase", "cases"]

ARCHITECTURES = {
    "dcgan": "dcgan",
    "dcgan (Trainer)": "dcgan",
    "wgan critic": "wgan",
    "wgan-gp critic": "wgan_gp",
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


STEPS = {
    "dcgan": dcgan_step,
    "dcgan (Trainer)": dcgan_step,
    "wgan critic": wgan_critic_step,
    "wgan-gp critic": wgan_gp_critic_step,
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
        return (*EAGER, *foreach, *(COMPILED if compiled else ()), *OURS)

    def cuda_goals(self, mode: str, precision: str) -> dict[str, float]:
        return {"eager": 5.0, "strongest": 1.5} if self.architecture in ("dcgan", "wgan-gp critic") else {}

    def work(self, mode: str, dtype: torch.dtype) -> Work:
        image = (self.batch_size, CHANNELS, self.image_size, self.image_size)
        nets = networks.networks_of(self._networks(torch.device("cpu"), False))
        g, d = Network.of(nets[0], self.batch_size, Z_DIM), Network.of(nets[1], *image)
        real_and_fake = d.forward_and_backward(dtype) + d.forward_and_backward(dtype)
        if "dcgan" in self.architecture:
            through = d.forward_and_backward(dtype, weights=False, inputs=True)
            return g.forward_and_backward(dtype) + g.update("adam") + real_and_fake + through + d.update("adam")
        critic = g.forward(dtype) + real_and_fake
        if self.architecture == "wgan critic":
            return critic + d.update("rmsprop_clip_")
        return critic + penalty_work(d, dtype) + d.update("adam")

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        players, implementation = self._players(provider, dtype, device, upcast)
        step = STEPS[self.architecture]

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

        def state() -> list[torch.Tensor]:
            nets = (players.generator, players.critic)
            values = [t for net in nets for t in net.state_dict().values()]
            return [*values, *tensors_of(players.optimizer_g), *tensors_of(players.optimizer_d)]

        def run() -> Losses:
            begin_step(provider, device)
            return step(players)

        return Workload({"step": run}, results, implementation, state)

    def _networks(self, device: torch.device, upcast: bool) -> nn.Module:
        options = {"image_size": self.image_size, "channels": CHANNELS, "z_dim": Z_DIM}
        options |= {"ngf": self.width, "ndf": self.width}
        return networks.build(ARCHITECTURES[self.architecture], device, upcast, **options)

    def _players(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool) -> tuple[Players, str]:
        wide, layout = working_dtype(torch.float32, upcast), layout_of(provider)
        generator, critic = networks.networks_of(self._networks(device, upcast).to(memory_format=layout))
        real, z, epsilon = (t.to(device, wide) for t in self._inputs())
        real = real.contiguous(memory_format=layout)
        optimizer_g, optimizer_d, clip = self._optimizers(provider, generator, critic, device)
        penalty, implementation, frozen = penalty_by_double_backward, "PyTorch", ()
        if is_ours(provider):
            implementation = implementation_of("conv2d_bn_act", real, *critic.parameters())
            generator, critic = fastgan.fuse(generator), fastgan.fuse(critic)
            if self.architecture == "dcgan (Trainer)":
                frozen = tuple(critic.parameters())
            if self.architecture == "wgan-gp critic":
                implementation = f"{penalty_path(critic)}, {implementation}"

            def penalty(critic, real, fake, epsilon):
                return fastgan.ops.gradient_penalty(
                    critic, real, fake, weight=LAMBDA_GP, epsilon=epsilon, autocast=True
                )
        elif base_of(provider) in COMPILED:
            plain = copy.copy(critic)  # the same parameters
            for net in (generator, critic):
                net.compile(**compile_options(provider, device))

            def penalty(critic, real, fake, epsilon):
                return penalty_by_double_backward(plain, real, fake, epsilon)

        players = Players(
            generator, critic, optimizer_g, optimizer_d, clip, penalty, real, z, epsilon,
            lambda: autocast(dtype, device, upcast), frozen,
        )  # fmt: skip
        return players, implementation

    def _optimizers(self, provider: str, generator: nn.Module, critic: nn.Module, device: torch.device):
        """(generator's, critic's, clip): as the papers have them, in the provider's form."""
        capturable = {"capturable": True} if is_graphed(provider) and device.type == "cuda" else {}
        if self.architecture != "wgan critic":
            form = fastgan.optim.Adam if is_ours(provider) else torch.optim.Adam
            adam = partial(form, lr=2e-4, betas=(0.5, 0.999), fused=True, **capturable)
            return adam(generator.parameters()), adam(critic.parameters()), lambda: None
        rmsprop = {"lr": LEARNING_RATE, **capturable}
        optimizer_g = torch.optim.RMSprop(generator.parameters(), **rmsprop)
        params = list(critic.parameters())
        if is_ours(provider):
            return optimizer_g, fastgan.optim.RMSprop(params, clip_value=CLIP_VALUE, **rmsprop), lambda: None
        foreach = provider.startswith("foreach")
        optimizer_d = torch.optim.RMSprop(params, foreach=foreach, **rmsprop)
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
