"""Small architectures and data sets for the tests of the trainer, and for the program that kills it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import nn

import fastgan
from fastgan.architectures.base import Architecture, Phase, Stage, option
from fastgan.data.batch import Batch


class Images(torch.utils.data.Dataset):
    """``count`` fixed uint8 images with labels, item by item; counts the epochs it is told of."""

    def __init__(self, count: int = 20, size: int = 4, channels: int = 1) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, object]:
        return {"image": self.images[i], "label": i % 3}

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class Noisy(Images):
    """Augments from the three global generators, as transforms found in the wild do."""

    def __getitem__(self, i: int) -> dict[str, object]:
        noise = torch.rand(()).item() + np.random.rand() + random.random()
        image = self.images[i].float() / 127.5 - 1 + 0.0 * noise
        return {"image": image, "label": int(noise), "state": torch.tensor([noise])}


class Fast(Images):
    """Whole batches at once; item by item would fail."""

    def __getitem__(self, i: int) -> dict[str, object]:
        raise AssertionError("batch() was to be used")

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"image": self.images[indices]}


class TinyGAN(Architecture):
    """A GAN of two small networks with BatchNorm, dropout, a history buffer, three phases and two stages."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(4, "size")
        channels: int = option(1, "channels")
        z_dim: int = option(3, "noise")
        widths: tuple[int, ...] = option((8, 8), "hidden layers")
        first_stage: int = option(7, "steps of the first stage")

    defaults: ClassVar[dict] = {"batch_size": 6}
    needs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, config: TinyGAN.Config | None = None) -> None:
        super().__init__(config or self.Config())
        size, width = self.config.image_size**2, self.config.widths[0]
        self.generator = nn.Sequential(
            nn.Linear(self.config.z_dim, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, size), nn.Tanh()
        )
        self.discriminator = nn.Sequential(
            nn.Linear(size, width), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(width, 1)
        )
        self.register_buffer("history", torch.zeros(size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def stages(self) -> list[Stage]:
        adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))
        rmsprop = partial(torch.optim.RMSprop, lr=1e-3, foreach=True)  # which reads a tensor lr on the device
        sgd = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
        critic = [
            Phase(
                "critic",
                self.discriminator.parameters(),
                rmsprop,
                self.critic_loss,
                repeat=lambda step: 3 if step < 2 else 1,
                after=self.remember,
                schedule=lambda step: {"lr": 1e-3 / (1 + step)},
            ),
            Phase("generator", self.generator.parameters(), adam, self.generator_loss, fresh_batch=False),
        ]
        last = [Phase("polish", self.generator[0].parameters(), sgd, self.generator_loss)]
        return [Stage("first", critic, steps=self.config.first_stage), Stage("second", [*critic, *last])]

    def critic_loss(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        real = batch.image.flatten(1)
        with torch.no_grad():
            fake = self.generator(self.latent(len(batch)))
        mean = self.discriminator(real).mean()
        return {"wasserstein": self.discriminator(fake).mean() - mean, "real": mean.detach()}

    def generator_loss(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        return {"wasserstein": -self.discriminator(self.generator(self.latent(len(batch)))).mean()}

    def remember(self, step: int) -> None:
        self.history.lerp_(self.discriminator[0].weight.mean(0), 0.1)
        self.updates += 1

    def generate(self, batch: Batch) -> torch.Tensor:
        size = self.config.image_size
        return self.generator(batch.latent).unflatten(1, (1, size, size))


def spread(architecture: Architecture) -> tuple[str, float, bool]:
    """A metric that draws random numbers and needs nothing."""
    if not architecture.generators:
        return "spread", torch.rand(()).item() * next(architecture.parameters()).std().item(), False
    if "label" in architecture.conditions:
        return "spread", architecture.generate(Batch(label=torch.arange(16) % 3)).std().item(), False
    return "spread", architecture.sample(16).std().item(), False


SMALL: dict[str, dict] = {  # small enough to train here; one that is not listed has its own defaults at 16 px
    "gan": {"image_size": 4, "channels": 1, "z_dim": 4, "hidden": 8, "maxout_units": 4},
    "dcgan": {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4},
    "cgan": {
        "image_size": 4,
        "channels": 1,
        "num_classes": 3,
        "z_dim": 4,
        "hidden": (4, 4, 8),
        "maxout_units": (4, 4, 4),
    },
    "acgan": {"image_size": 16, "channels": 1, "num_classes": 3, "z_dim": 8, "ngf": 4, "ndf": 2},
    "infogan": {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4, "hidden": 16, "q_hidden": 8},
    "lapgan": {"image_size": 16, "channels": 1, "hidden_generator": 8, "hidden_discriminator": 8, "ngf": 2, "ndf": 2},
    "wgan": {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4, "n_critic_warmup": 3},
    "improved_gan": {"image_size": 16, "channels": 1, "ngf": 4, "ndf": 4, "minibatch_kernels": 3, "virtual_batch": 3},
    "vat": {"image_size": 16, "channels": 1, "width": 2},
    "wgan_gp": {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4},
}


def build(name: str, out: str | None, **options: object) -> fastgan.Trainer:
    """The trainer that the kill tests use, of TinyGAN or of a registered architecture."""
    torch.manual_seed(5)
    architecture = TinyGAN() if name == "tiny" else fastgan.create(name, **SMALL.get(name, {"image_size": 16}))
    data = Noisy(20, architecture.config.image_size, architecture.config.channels)
    defaults = {"batch_size": 6, "seed": 3, "progress": False, "metric": spread}
    return fastgan.Trainer(architecture, data, out=out, **{**defaults, **options})
