"""GAN: Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014.

Multi-layer perceptrons trained by algorithm 1: k discriminator updates for one of the generator. Networks and
settings are those of the authors' MNIST experiment: a ReLU generator 1200-1200, a maxout discriminator 240x5 - 240x5
with dropout, SGD with lr 0.1 (decaying) and momentum 0.5 rising to 0.7, batches of 100. Their sigmoid output on [0,
1] is tanh on [-1, 1] here.

``image_size=1`` gives data points instead of images: (N, channels, 1, 1), with a linear output, since points are not
bounded. The paper's one-dimensional demonstration (figure 1), for data like N(0, 1), 4000 steps with batches of 200:

    fastgan.create("gan", image_size=1, channels=1, z_dim=1, hidden=32, maxout_units=8, maxout_pieces=3,
                   input_dropout=0, dropout=0, init_generator=0.5, init_discriminator=0.5, lr_decay=1.001)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import nn

from fastgan import losses
from fastgan.architectures.base import Architecture, Losses, Phase, Preset, option
from fastgan.data.batch import Batch
from fastgan.registry import register

__all__ = ["GAN", "Discriminator", "Generator", "Maxout", "init_uniform", "sgd_schedule"]


class Maxout(nn.Module):
    """(N, in_features) -> (N, units): each unit is the largest of ``pieces`` linear maps. Goodfellow et al. 2013."""

    def __init__(self, in_features: int, units: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, units * pieces)
        self.pieces = pieces

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class Generator(nn.Module):
    """z (N, z_dim) -> (N, channels, image_size, image_size): images in [-1, 1]; unbounded points at image_size 1."""

    def __init__(self, image_size: int, channels: int, z_dim: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        widths = [z_dim] + [hidden] * depth
        layers: list[nn.Module] = []
        for width_in, width in pairwise(widths):
            layers += [nn.Linear(width_in, width), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(widths[-1], channels * image_size * image_size))
        if image_size > 1:
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)
        self.image_shape = (channels, image_size, image_size)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z).unflatten(1, self.image_shape)


class Discriminator(nn.Module):
    """Images or points (N, channels, image_size, image_size) -> logits (N,)."""

    def __init__(
        self, image_size: int, channels: int, units: int, pieces: int, input_dropout: float, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(input_dropout),
            Maxout(channels * image_size * image_size, units, pieces),
            nn.Dropout(dropout),
            Maxout(units, units, pieces),
            nn.Dropout(dropout),
            nn.Linear(units, 1),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image).flatten()


def init_uniform(network: nn.Module, bound: float) -> None:
    """Weights of all linear layers from U(-bound, bound), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)


def sgd_schedule(config: Architecture.Config, lr: float, step: int) -> dict[str, float]:
    """A learning rate that was ``lr`` at first, and the momentum, at ``step``: ``GAN.Config`` says how they move."""
    rise = min(step / config.momentum_steps, 1.0)
    return {
        "lr": max(lr * config.lr_decay**-step, config.min_lr),
        "momentum": config.momentum + (config.final_momentum - config.momentum) * rise,
    }


@register("gan")
class GAN(Architecture):
    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(32, "height and width of the images; 1: data points", minimum=1, maximum=256)
        z_dim: int = option(100, "dimensions of the noise", minimum=1)
        hidden: int = option(1200, "ReLU units of each of the generator's two hidden layers", minimum=1)
        maxout_units: int = option(240, "units of each of the discriminator's two maxout layers", minimum=1)
        maxout_pieces: int = option(5, "linear maps a maxout unit takes the largest of", minimum=1)
        input_dropout: float = option(0.2, "share of the discriminator's inputs dropped", minimum=0.0, maximum=0.99)
        dropout: float = option(0.5, "share of the discriminator's hidden units dropped", minimum=0.0, maximum=0.99)
        init_generator: float = option(0.05, "the generator's weights start in U(-x, x)", minimum=0.0)
        init_discriminator: float = option(0.005, "the discriminator's weights start in U(-x, x)", minimum=0.0)
        loss: Literal["minimax", "non_saturating"] = option("non_saturating", "which loss the generator drives down")
        k: int = option(1, "discriminator updates for one of the generator", minimum=1)
        lr: float = option(0.1, "SGD's learning rate at the start, both networks", minimum=0.0)
        lr_decay: float = option(1.000004, "the learning rate is divided by this at every step", minimum=1.0)
        min_lr: float = option(1e-6, "the learning rate does not fall below this", minimum=0.0)
        momentum: float = option(0.5, "SGD's momentum at the start", minimum=0.0, maximum=0.9999)
        final_momentum: float = option(0.7, "SGD's momentum after momentum_steps", minimum=0.0, maximum=0.9999)
        momentum_steps: int = option(125_000, "steps over which the momentum rises (250 epochs of MNIST)", minimum=1)

    defaults: ClassVar[dict] = {"batch_size": 100}
    # hundreds of epochs in the paper, a few here: the momentum rises in as short a time
    presets: ClassVar[dict[str, Preset]] = {
        "scenes": Preset("scenes", 1500, model={"momentum_steps": 1500}),
        "fashion_mnist": Preset("fashion_mnist", 1500, model={"image_size": 28, "momentum_steps": 1500}),
    }

    def __init__(self, config: GAN.Config) -> None:
        super().__init__(config)
        c = config
        self.generator = Generator(c.image_size, c.channels, c.z_dim, c.hidden)
        self.discriminator = Discriminator(
            c.image_size, c.channels, c.maxout_units, c.maxout_pieces, c.input_dropout, c.dropout
        )
        init_uniform(self.generator, c.init_generator)
        init_uniform(self.discriminator, c.init_discriminator)

    def phases(self) -> list[Phase]:
        sgd = partial(torch.optim.SGD, lr=self.config.lr, momentum=self.config.momentum)
        return [
            Phase(
                "discriminator",
                self.discriminator.parameters(),
                sgd,
                self.discriminator_loss,
                repeat=self.config.k,
                schedule=self.schedule,
            ),
            Phase(
                "generator",
                self.generator.parameters(),
                sgd,
                self.generator_loss,
                fresh_batch=False,
                schedule=self.schedule,
            ),
        ]

    def schedule(self, step: int) -> dict[str, float]:
        """Learning rate and momentum at ``step``."""
        return sgd_schedule(self.config, self.config.lr, step)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        real_logits = self.discriminator(self.real(batch))
        with torch.no_grad():
            fake = self.generate(batch)
        fake_logits = self.discriminator(fake)
        return {
            # the authors' code halves this loss, and its learning rate is meant for the half
            "adversarial": 0.5 * losses.minimax_discriminator(real_logits, fake_logits),
            "p_real": real_logits.detach().sigmoid().mean(),
            "p_fake": fake_logits.detach().sigmoid().mean(),
        }

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        fake_logits = self.discriminator(self.generate(batch))
        return {"adversarial": losses.LOSSES[self.config.loss].generator(fake_logits)}

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.generator(self.noise(batch))
