"""LAPGAN: Denton, Chintala, Szlam, Fergus, "Deep Generative Image Models using a Laplacian Pyramid of Adversarial
Networks", NeurIPS 2015.

A chain of GANs from coarse to fine. The coarsest draws an 8x8 image from noise with fully connected networks. Every
finer level enlarges the image below it and draws what enlarging lacks, the residual of a Laplacian pyramid, with
convolutions from the enlarged image and a plane of noise; its discriminator judges the sum. A level learns from real
pyramids alone and never sees another level's output, so all of them are trained side by side.

Networks and settings are those of the authors' code for CIFAR-10 (github.com/facebook/eyescream, cifar/), read for
this file: coarsest G ReLU - ReLU and D ReLU - ReLU with dropout, weights from N(0, 0.05) and N(0, 0.005); finer G
convolutions 7x7, 7x7, 5x5 of 64 planes that keep the size, finer D convolutions 5x5 and 5x5 with stride 2, dropout
and one linear layer; no batch norm anywhere; noise from U(-1, 1); the discriminator's loss is the mean over real and
generated images (so half of the sum that papers write), the generator's is non-saturating; SGD with lr 0.02, divided
by 1.000004 at every epoch, momentum 0.5 rising by 0.0008 at every epoch to 0.7. Class-conditional: the label's one-hot
vector goes to the coarsest networks' first layers, and through a linear layer with ReLU becomes one more plane of the
finer ones' input. The widths 1200 and 600 and the two ReLU layers of the coarsest networks are the paper's as
remembered (the code's defaults, for 32 px, are 8000 and 1600, with a sigmoid layer in G); the paper as remembered has
momentum rise to 0.8.

What departs from both, and why:
    8 -> 16 -> 32 px, where the paper's CIFAR-10 model is 8 -> 14 -> 28 on crops: a pyramid by halving is exact.
    Images are in [-1, 1] as everywhere here, not standardised pixel by pixel (`contrast` makes up for it: D's first
        layer learns at a rate that grows with the square of its inputs). The coarsest G therefore ends in tanh,
        and `generate` clamps every level to [-1, 1]; in training a finer level's sum is judged unclamped, so that
        its gradient lives outside the range too.
    A batch of 128 is 128 real and 128 generated images to D; the authors' is 64 and 64. The generated ones refine the
        same low-pass images that the real ones were taken from, and G's update those of D's; the authors draw anew.
    All levels take part in every step (or, `finer_every`, the finer ones in some), instead of one run a level: a run
        cut short is a whole chain, and samples show it from the first step. The authors choose a run's length by eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from fastgan import losses
from fastgan.architectures import gan
from fastgan.architectures.base import Architecture, Losses, Phase, Preset, option
from fastgan.data.batch import Batch
from fastgan.nn.pyramid import downsample, upsample
from fastgan.ops import _noise
from fastgan.registry import register

__all__ = ["LAPGAN", "CoarseDiscriminator", "CoarseGenerator", "FineDiscriminator", "FineGenerator", "Generator"]


class CoarseGenerator(gan.Generator):
    """z (N, z_dim) and, where there are classes, one-hot label (N, num_classes) -> images (N, C, s, s) in [-1, 1]."""

    def __init__(self, image_size: int, channels: int, z_dim: int, hidden: int, num_classes: int = 0) -> None:
        super().__init__(image_size, channels, z_dim + num_classes, hidden)

    def forward(self, z: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(z if label is None else torch.cat([z, label], 1))


class CoarseDiscriminator(nn.Module):
    """Images (N, C, s, s) and, where there are classes, one-hot label (N, num_classes) -> logits (N,).

    ``contrast``: the first layer is given the images times this.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        hidden: int,
        dropout: float,
        num_classes: int = 0,
        contrast: float = 1.0,
    ) -> None:
        super().__init__()
        self.contrast = contrast
        self.layers = nn.Sequential(
            nn.Linear(channels * image_size**2 + num_classes, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, image: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        pixels = self.contrast * image.flatten(1)
        return self.layers(pixels if label is None else torch.cat([pixels, label], 1)).flatten()


class ClassPlane(nn.Module):
    """One-hot label (N, num_classes) -> a plane (N, 1, s, s) beside an image's channels."""

    def __init__(self, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_classes, image_size**2)
        self.image_size = image_size

    def forward(self, label: torch.Tensor) -> torch.Tensor:
        return F.relu(self.linear(label)).unflatten(1, (1, self.image_size, self.image_size))


class FineGenerator(nn.Module):
    """Enlarged image (N, C, s, s), noise (N, 1, s, s) and one-hot label (N, num_classes) -> residual (N, C, s, s)."""

    def __init__(self, image_size: int, channels: int, ngf: int, num_classes: int = 0) -> None:
        super().__init__()
        self.plane = ClassPlane(image_size, num_classes) if num_classes else None
        self.layers = nn.Sequential(
            nn.Conv2d(channels + 1 + (num_classes > 0), ngf, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Conv2d(ngf, ngf, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Conv2d(ngf, channels, 5, padding=2),
        )

    def forward(self, low: torch.Tensor, noise: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        planes = [low, noise] if label is None else [low, noise, self.plane(label)]
        return self.layers(torch.cat(planes, 1))


class FineDiscriminator(nn.Module):
    """Enlarged image plus residual (N, C, s, s), s >= 16, and one-hot label (N, num_classes) -> logits (N,)."""

    def __init__(self, image_size: int, channels: int, ndf: int, dropout: float, num_classes: int = 0) -> None:
        super().__init__()
        self.plane = ClassPlane(image_size, num_classes) if num_classes else None
        left = (image_size - 4 - 5) // 2 + 1  # height and width after both convolutions, which do not pad
        self.layers = nn.Sequential(
            nn.Conv2d(channels + (num_classes > 0), ndf, 5),
            nn.ReLU(inplace=True),
            nn.Conv2d(ndf, ndf, 5, stride=2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(ndf * left**2, 1),
        )

    def forward(self, image: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return self.layers(image if label is None else torch.cat([image, self.plane(label)], 1)).flatten()


class Generator(nn.Module):
    """The chain: noise (N, sum(noise_dims)) and one-hot label (N, num_classes) -> images (N, C, s, s) in [-1, 1].

    ``sizes``: heights of the levels from coarse to fine, each twice the one before. ``noise_dims``: how many of the
    noise's values each level takes, z_dim for the coarsest, then a plane of its size each.
    """

    def __init__(
        self, sizes: tuple[int, ...], channels: int, z_dim: int, hidden: int, ngf: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.noise_dims = (z_dim, *(size**2 for size in sizes[1:]))
        self.coarse = CoarseGenerator(sizes[0], channels, z_dim, hidden, num_classes)
        self.finer = nn.ModuleList(FineGenerator(size, channels, ngf, num_classes) for size in sizes[1:])

    def level(
        self, number: int, low: torch.Tensor | None, noise: torch.Tensor, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Images of one level, not clamped: ``low`` is the enlarged image below it, None for level 0, the coarsest;
        ``noise`` is (N, noise_dims[number])."""
        if low is None:
            return self.coarse(noise, label)
        return low + self.finer[number - 1](low, noise.unflatten(1, (1, *low.shape[2:])), label)

    def chain(self, noise: torch.Tensor, label: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The images of all levels, from coarse to fine, each drawn from the one before."""
        images: list[torch.Tensor] = []
        for number, part in enumerate(noise.split(self.noise_dims, 1)):
            low = upsample(images[-1]) if images else None
            images.append(self.level(number, low, part, label).clamp(-1, 1))
        return images

    def forward(self, noise: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return self.chain(noise, label)[-1]


SMALL = {"image_size": 32, "ngf": 16, "ndf": 32, "finer_every": 4, "contrast": 4.0}  # the presets'


@register("lapgan")
class LAPGAN(Architecture):
    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(32, "height and width of the images: coarse_size, doubled any number of times")
        coarse_size: int = option(8, "height and width of the coarsest level; image_size: one GAN", minimum=8)
        z_dim: int = option(100, "dimensions of the coarsest level's noise; every finer level has a plane", minimum=1)
        hidden_generator: int = option(1200, "units of the coarsest generator's two hidden layers", minimum=1)
        hidden_discriminator: int = option(600, "units of the coarsest discriminator's two hidden layers", minimum=1)
        ngf: int = option(64, "channels of the finer generators' two hidden layers", minimum=1)
        ndf: int = option(64, "channels of the finer discriminators' two layers", minimum=1)
        dropout: float = option(
            0.5, "share of the discriminators' hidden units dropped: the finer ones' last", minimum=0.0, maximum=0.99
        )
        contrast: float = option(1.0, "the coarsest discriminator is given its images times this", minimum=0.0)
        conditional: bool = option(False, "draw images of a class, from labels")
        num_classes: int = option(10, "how many classes the labels of a conditional model have", minimum=1)
        finer_every: int = option(1, "a level is updated at every so many updates of the level below it", minimum=1)
        init_generator: float = option(0.05, "deviation of the coarsest generator's first weights", minimum=0.0)
        init_discriminator: float = option(0.005, "the same, of its discriminator", minimum=0.0)
        lr: float = option(0.02, "SGD's learning rate at first, all networks", minimum=0.0)
        lr_decay: float = option(1.000004, "the learning rate is divided by this at every epoch", minimum=1.0)
        momentum: float = option(0.5, "SGD's momentum at first", minimum=0.0, maximum=0.9999)
        momentum_rise: float = option(0.0008, "what an epoch adds to the momentum", minimum=0.0)
        final_momentum: float = option(0.7, "the momentum does not rise above this", minimum=0.0, maximum=0.9999)
        epoch_steps: int = option(390, "a level's updates that are an epoch (CIFAR-10 in batches of 128)", minimum=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.image_size not in self.level_sizes():
                raise ValueError(
                    f"image_size takes coarse_size ({self.coarse_size}) doubled any number of times, got "
                    f"{self.image_size}: images of another size are resized to it when the data is read"
                )

        def level_sizes(self) -> tuple[int, ...]:
            """Heights of the levels' images from coarse to fine, up to image_size."""
            sizes = [self.coarse_size]
            while sizes[-1] * 2 <= self.image_size:
                sizes.append(sizes[-1] * 2)
            return tuple(sizes)

    defaults: ClassVar[dict] = {"batch_size": 128}
    # A core's minutes: narrower finer levels, smaller batches, and most of the updates for the coarsest level, which
    # decides what there is to see. `contrast` gives its discriminator's input the norm of a 32 px image.
    presets: ClassVar[dict[str, Preset]] = {
        "scenes": Preset("scenes", 9000, 64, SMALL, size=10_000),
        "cifar10": Preset("cifar10", 3000, 64, SMALL),
    }

    def __init__(self, config: LAPGAN.Config) -> None:
        super().__init__(config)
        c = config
        self.sizes = c.level_sizes()
        num_classes = c.num_classes if c.conditional else 0
        if c.conditional:
            self.needs, self.conditions = ("image", "label"), ("label",)
        self.generator = Generator(self.sizes, c.channels, c.z_dim, c.hidden_generator, c.ngf, num_classes)
        self.discriminators = tuple(f"discriminator_{size}" for size in self.sizes)
        coarse = CoarseDiscriminator(
            c.coarse_size, c.channels, c.hidden_discriminator, c.dropout, num_classes, c.contrast
        )
        finer = (FineDiscriminator(size, c.channels, c.ndf, c.dropout, num_classes) for size in self.sizes[1:])
        for name, discriminator in zip(self.discriminators, (coarse, *finer), strict=True):
            self.add_module(name, discriminator)
        init_normal(self.generator.coarse, c.init_generator)
        init_normal(coarse, c.init_discriminator)

    # -- training ------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        """Discriminator and generator of every level, from coarse to fine, all from one batch."""
        c, phases = self.config, []
        sgd = partial(torch.optim.SGD, lr=c.lr, momentum=c.momentum)
        for level, size in enumerate(self.sizes):
            discriminator, generator = self.get_submodule(self.discriminators[level]), self._generator(level)
            timing = {"repeat": partial(self.repeats, level), "schedule": partial(self.schedule, level)}
            phases += [
                Phase(
                    f"discriminator_{size}",
                    discriminator.parameters(),
                    sgd,
                    partial(self.discriminator_loss, level),
                    fresh_batch=level == 0,
                    **timing,
                ),
                Phase(
                    f"generator_{size}",
                    generator.parameters(),
                    sgd,
                    partial(self.generator_loss, level),
                    fresh_batch=False,
                    **timing,
                ),
            ]
        return phases

    def repeats(self, level: int, step: int) -> int:
        """1 at the steps at which ``level`` is updated, else 0."""
        return int(step % self.config.finer_every**level == 0)

    def schedule(self, level: int, step: int) -> dict[str, float]:
        """Learning rate and momentum at ``step``, by the epochs that ``level`` was trained."""
        c = self.config
        epoch = step // c.finer_every**level // c.epoch_steps
        return {
            "lr": c.lr * c.lr_decay**-epoch,
            "momentum": max(c.momentum, min(c.momentum + c.momentum_rise * epoch, c.final_momentum)),
        }

    def discriminator_loss(self, level: int, batch: Batch, step: int) -> Losses:
        real, low = self.pictures(batch, level)
        discriminator, label = self.get_submodule(self.discriminators[level]), self.label(batch)
        real_logits = discriminator(real, label)
        with torch.no_grad():
            fake = self.generator.level(level, low, self.level_noise(batch, level), label)
        fake_logits = discriminator(fake, label)
        return {
            "adversarial": 0.5 * losses.non_saturating_discriminator(real_logits, fake_logits),
            "p_real": real_logits.detach().sigmoid().mean(),
            "p_fake": fake_logits.detach().sigmoid().mean(),
        }

    def generator_loss(self, level: int, batch: Batch, step: int) -> Losses:
        _, low = self.pictures(batch, level)
        label = self.label(batch)
        fake = self.generator.level(level, low, self.level_noise(batch, level), label)
        fake_logits = self.get_submodule(self.discriminators[level])(fake, label)
        return {"adversarial": losses.non_saturating_generator(fake_logits)}

    def pictures(self, batch: Batch, level: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Real images at the size of ``level``, and the same without the residual: None at the coarsest level."""
        image = self.real(batch)
        for _ in self.sizes[level + 1 :]:
            image = downsample(image)
        return image, upsample(downsample(image)) if level else None

    def label(self, batch: Batch) -> torch.Tensor | None:
        """One-hot (N, num_classes), zeros for an unlabelled item (-1); None where the model knows no classes."""
        if not self.config.conditional:
            return None
        if batch.label is None:
            raise ValueError("LAPGAN with conditional=True draws images of a class: the batch has no label")
        classes = torch.arange(self.config.num_classes, device=batch.label.device)
        return (batch.label[:, None] == classes).to(next(self.parameters()).dtype)

    def _generator(self, level: int) -> nn.Module:
        return self.generator.finer[level - 1] if level else self.generator.coarse

    # -- inference -----------------------------------------------------------------------------------------------
    def latent(self, n: int) -> torch.Tensor:
        """Noise of all levels from U(-1, 1), from coarse to fine: (n, z_dim + 16 * 16 + 32 * 32 + ...)."""
        return self._uniform(n, sum(self.generator.noise_dims))

    def noise(self, batch: Batch) -> torch.Tensor:
        """``batch.latent`` where present, else fresh noise as ``latent`` draws it."""
        if batch.latent is None:
            return self.latent(len(batch))
        dims = sum(self.generator.noise_dims)
        if batch.latent.shape[1:] != (dims,):
            parts = " + ".join(map(str, self.generator.noise_dims))
            raise ValueError(f"batch.latent takes shape (N, {dims}), got {tuple(batch.latent.shape)}: {parts} by level")
        return batch.latent

    def level_noise(self, batch: Batch, level: int) -> torch.Tensor:
        """Of the noise, that of one level: (N, noise_dims[level])."""
        dims = self.generator.noise_dims
        if batch.latent is None:
            return self._uniform(len(batch), dims[level])
        return self.noise(batch).split(dims, 1)[level]

    def _uniform(self, n: int, dims: int) -> torch.Tensor:
        like = next(self.parameters())
        return 2 * _noise.rand(n, dims, device=like.device, dtype=like.dtype) - 1

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.generator(self.noise(batch), self.label(batch))


def init_normal(network: nn.Module, std: float) -> None:
    """Weights of all linear layers from N(0, std), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
            nn.init.zeros_(module.bias)
