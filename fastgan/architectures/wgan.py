"""WGAN: Arjovsky, Chintala, Bottou, "Wasserstein GAN", ICML 2017.

Algorithm 1: a critic without sigmoid, driven to tell real from fake by RMSProp (lr 5e-5, no momentum) and kept
Lipschitz by clipping *all* its parameters to [-0.01, 0.01] after every update; n_critic = 5 critic updates for one
of the generator, and 100 during the first 25 steps and at every 500th, as in the authors' code. (That code clips
before the update; here it follows, as the paper has it, so that the generator never sees a critic outside its cube.)

Networks are DCGAN's, batch norm in the critic included, or ReLU perceptrons, which the paper trains as well (section
4.3); the generator may go without batch norm. ``image_size=1`` with perceptrons is for points (N, channels, 1, 1):
rings and grids of Gaussians in the plane (channels=2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import nn

from fastgan import losses
from fastgan.architectures import dcgan, gan
from fastgan.architectures.base import Architecture, Losses, Phase, Preset, option
from fastgan.data.batch import Batch
from fastgan.optim import RMSprop
from fastgan.registry import register

__all__ = ["WGAN", "MLPCritic", "build_critic", "build_generator", "check_networks"]


class MLPCritic(nn.Module):
    """Images or points (N, channels, image_size, image_size) -> logits (N,); three hidden ReLU layers."""

    def __init__(self, image_size: int, channels: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width in pairwise([channels * image_size * image_size, hidden, hidden, hidden]):
            layers += [nn.Linear(width_in, width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image).flatten()


def build_generator(config: Architecture.Config) -> nn.Module:
    """The generator that ``config.generator`` names: (N, z_dim) -> (N, channels, image_size, image_size)."""
    c = config
    if c.generator == "mlp":
        return gan.Generator(c.image_size, c.channels, c.z_dim, c.hidden, depth=3)
    return dcgan.Generator(c.image_size, c.channels, c.z_dim, c.ngf, norm=c.generator_norm)


def build_critic(config: Architecture.Config, norm: bool) -> nn.Module:
    """The critic that ``config.critic`` names: (N, channels, image_size, image_size) -> (N,)."""
    c = config
    if c.critic == "mlp":
        return MLPCritic(c.image_size, c.channels, c.hidden)
    return dcgan.Discriminator(c.image_size, c.channels, c.ndf, norm=norm)


def check_networks(config: Architecture.Config) -> None:
    """Raise ``ValueError`` where convolutions do not fit ``image_size``; perceptrons take any size."""
    if "dcgan" in (config.generator, config.critic):
        if config.image_size == 1:
            raise ValueError("image_size=1 (data points) takes generator='mlp' and critic='mlp'")
        dcgan.check_image_size(config.image_size)


# Rings and grids of points: a critic on two inputs needs steeper weights, and minutes a faster pace. At that pace a
# warm-up of 100 can leave a generator behind that gives one point alone.
POINTS = {"generator": "mlp", "critic": "mlp", "hidden": 128, "z_dim": 2, "n_critic_warmup": 20}


@register("wgan")
class WGAN(Architecture):
    discriminators: ClassVar[tuple[str, ...]] = ("critic",)
    presets: ClassVar[Mapping[str, Preset]] = {
        "gaussians_8": Preset("gaussians_8", 6000, 256, model=POINTS | {"clip_value": 0.1, "lr": 5e-4}),
        "gaussians_25": Preset("gaussians_25", 12000, 256, model=POINTS | {"clip_value": 0.3, "lr": 1e-3}),
    }

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        generator: Literal["dcgan", "mlp"] = option("dcgan", "the generator: convolutions or a ReLU perceptron")
        critic: Literal["dcgan", "mlp"] = option("dcgan", "the critic: convolutions or a ReLU perceptron")
        generator_norm: bool = option(True, "batch norm in the convolutional generator")
        critic_norm: bool = option(True, "batch norm in the convolutional critic")
        z_dim: int = option(100, "dimensions of the noise", minimum=1)
        ngf: int = option(64, "channels of the convolutional generator's last hidden layer", minimum=1)
        ndf: int = option(64, "channels of the convolutional critic's first layer", minimum=1)
        hidden: int = option(512, "units of each of a perceptron's three hidden layers", minimum=1)
        n_critic: int = option(5, "critic updates for one of the generator", minimum=1)
        n_critic_warmup: int = option(100, "the same in the first 25 steps and every 500th", minimum=1)
        clip_value: float = option(0.01, "the critic's parameters are kept in [-clip_value, clip_value]", minimum=1e-12)
        lr: float = option(5e-5, "RMSProp's learning rate, both networks", minimum=0.0)

        def __post_init__(self) -> None:
            super().__post_init__()
            check_networks(self)

    def __init__(self, config: WGAN.Config) -> None:
        super().__init__(config)
        self.generator = build_generator(config)
        self.critic = build_critic(config, norm=config.critic_norm)

    def phases(self) -> list[Phase]:
        lr, clip_value = self.config.lr, self.config.clip_value
        return [
            Phase(
                "critic",
                self.critic.parameters(),
                partial(RMSprop, lr=lr, clip_value=clip_value),  # the clip follows every update, in the same pass
                self.critic_loss,
                repeat=self.critic_updates,
            ),
            Phase(
                "generator",
                self.generator.parameters(),
                partial(RMSprop, lr=lr),
                self.generator_loss,
                fresh_batch=False,
            ),
        ]

    def critic_updates(self, step: int) -> int:
        """Critic updates before the generator's at ``step``: a critic far from its optimum gives no useful gradient."""
        warming_up = step < 25 or step % 500 == 0
        return self.config.n_critic_warmup if warming_up else self.config.n_critic

    def critic_loss(self, batch: Batch, step: int) -> Losses:
        real_logits = self.critic(self.real(batch))
        with torch.no_grad():
            fake = self.generate(batch)
        adversarial = losses.wasserstein_critic(real_logits, self.critic(fake))
        return {"adversarial": adversarial, "wasserstein": -adversarial.detach()}

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        return {"adversarial": losses.wasserstein_generator(self.critic(self.generate(batch)))}

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.generator(self.noise(batch))
