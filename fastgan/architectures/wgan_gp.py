"""WGAN-GP: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017.

WGAN's game with the clip replaced by a penalty: 10 E[(|grad f(x)| - 1)^2] at points drawn between real and fake, one
norm and one epsilon per sample (algorithm 1). The critic has no batch norm, because the penalty is about each sample
alone (section 4). n_critic = 5; Adam with lr 1e-4, beta2 0.9 and beta1 0.5 below 64 px and 0 from there on, as in
the authors' scripts; that for CIFAR-10's residual networks lets the learning rate fall to 0 along a line, which
``lr_decay_steps`` does. Networks are DCGAN's, or the ReLU perceptrons of the authors' toy experiments; ``image_size=1``
with perceptrons is for points (N, channels, 1, 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import nn

from fastgan import losses
from fastgan.architectures._schedules import linear_decay
from fastgan.architectures.base import Architecture, Losses, Phase, Preset, option
from fastgan.architectures.wgan import build_critic, build_generator, check_networks
from fastgan.data.batch import Batch
from fastgan.ops import gradient_penalty
from fastgan.optim import Adam
from fastgan.registry import register

__all__ = ["WGANGP"]


def he_init(module: nn.Module) -> None:
    """Keep the scale of activations from layer to layer: nothing else does in a network without norm."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_uniform_(module.weight, a=0.2)
        nn.init.zeros_(module.bias)


# rings and grids of points: the penalty's weight is the authors' for toy data, the pace that of minutes
POINTS = {"generator": "mlp", "critic": "mlp", "hidden": 128, "z_dim": 2, "lambda_gp": 0.1, "lr": 2e-3}
# of the presets for images: half the channels and batch of the authors' scripts, and for a hundredth of their steps or
# less ten times their learning rate, which falls to 0
SMALL = {"image_size": 32, "ngf": 32, "ndf": 32, "lr": 1e-3, "lr_decay_steps": 500}


@register("wgan_gp")
class WGANGP(Architecture):
    discriminators: ClassVar[tuple[str, ...]] = ("critic",)
    presets: ClassVar[Mapping[str, Preset]] = {
        "gaussians_8": Preset("gaussians_8", 2000, 256, model=POINTS),
        "gaussians_25": Preset("gaussians_25", 2000, 256, model=POINTS),
        "scenes": Preset("scenes", 500, 32, SMALL),
        "cifar10": Preset("cifar10", 500, 32, SMALL),
        "fashion_mnist": Preset("fashion_mnist", 500, 32, SMALL),
    }

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        generator: Literal["dcgan", "mlp"] = option("dcgan", "the generator: convolutions or a ReLU perceptron")
        critic: Literal["dcgan", "mlp"] = option("dcgan", "the critic: convolutions or a ReLU perceptron")
        generator_norm: bool = option(True, "batch norm in the convolutional generator")
        z_dim: int = option(128, "dimensions of the noise", minimum=1)
        ngf: int = option(64, "channels of the convolutional generator's last hidden layer", minimum=1)
        ndf: int = option(64, "channels of the convolutional critic's first layer", minimum=1)
        hidden: int = option(512, "units of each of a perceptron's three hidden layers", minimum=1)
        lambda_gp: float = option(10.0, "weight of the gradient penalty (the authors' toy data: 0.1)", minimum=0.0)
        n_critic: int = option(5, "critic updates for one of the generator", minimum=1)
        lr: float = option(1e-4, "Adam's learning rate, both networks", minimum=0.0)
        lr_decay_steps: int | None = option(None, "steps over which lr falls to 0; None: it stays", minimum=1)
        beta1: float | None = option(
            None, "Adam's beta1; None: 0.5 below 64 px, 0 from there", minimum=0.0, maximum=0.9999
        )
        beta2: float = option(0.9, "Adam's beta2", minimum=0.0, maximum=0.9999)

        def __post_init__(self) -> None:
            super().__post_init__()
            check_networks(self)

    def __init__(self, config: WGANGP.Config) -> None:
        super().__init__(config)
        self.generator = build_generator(config)
        self.critic = build_critic(config, norm=False).apply(he_init)

    def phases(self) -> list[Phase]:
        c = self.config
        beta1 = c.beta1 if c.beta1 is not None else (0.5 if c.image_size < 64 else 0.0)
        adam = partial(Adam, lr=c.lr, betas=(beta1, c.beta2))
        schedule = linear_decay(c.lr, c.lr_decay_steps)
        return [
            Phase("critic", self.critic.parameters(), adam, self.critic_loss, repeat=c.n_critic, schedule=schedule),
            Phase(
                "generator",
                self.generator.parameters(),
                adam,
                self.generator_loss,
                fresh_batch=False,
                schedule=schedule,
            ),
        ]

    def critic_loss(self, batch: Batch, step: int) -> Losses:
        real = self.real(batch)
        with torch.no_grad():
            fake = self.generate(batch)
        adversarial = losses.wasserstein_critic(self.critic(real), self.critic(fake))
        return {
            "adversarial": adversarial,
            "gradient_penalty": gradient_penalty(self.critic, real, fake, weight=self.config.lambda_gp),
            "wasserstein": -adversarial.detach(),
        }

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        return {"adversarial": losses.wasserstein_generator(self.critic(self.generate(batch)))}

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.generator(self.noise(batch))
