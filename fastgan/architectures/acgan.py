"""AC-GAN: Odena, Olah, Shlens, "Conditional Image Synthesis with Auxiliary Classifier GANs", ICML 2017.

The generator draws an image of a class; the discriminator, which is not told the class, says whether an image is real
and, from the same features, of which class it is. With L_S and L_C the log-likelihoods of the right source and of the
right class, of real and of generated images both, the discriminator maximises L_S + L_C and the generator L_C - L_S
(section 3). Labels of generated images are those of the batch, so that classes are as frequent as in the data.

Settings are those of the paper's CIFAR-10 model (appendix A): z of 100 numbers beside a one-hot class; six 3x3
convolutions, every other of stride 2, with 16, 32, ..., 512 channels, batch norm in all but the first, LeakyReLU(0.2)
and dropout of 0.5; Adam with lr 2e-4 and beta1 0.5; batches of 100; weights from N(0, 0.02). Different from the paper:
    the generator is DCGAN's, whose widths at 32 px are the paper's 384-192-96: its transposed convolutions have 4x4
    kernels instead of 5x5, and batch norm follows the first layer too;
    it drives down -log D(fake) instead of log(1 - D(fake)), as usual (gan.py);
    the noise on the discriminator's activations is left out: zero is among the values that the paper tried.
The discriminator's terms are sums over real and generated images, as in L_S and L_C, and are not halved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from fastgan import losses
from fastgan.architectures.base import Architecture, Losses, Phase, Preset, option
from fastgan.architectures.cgan import ConvGenerator, one_hot
from fastgan.architectures.dcgan import check_image_size
from fastgan.data.batch import Batch
from fastgan.nn.init import dcgan_init
from fastgan.optim import Adam
from fastgan.registry import register

__all__ = ["ACGAN", "Discriminator"]


class Discriminator(nn.Module):
    """Images (N, channels, image_size, image_size) -> logits of being real (N,), class logits (N, num_classes)."""

    def __init__(self, image_size: int, channels: int, num_classes: int, ndf: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = channels
        for i in range(6):
            width, norm = ndf * 2**i, i > 0
            layers.append(nn.Conv2d(width_in, width, 3, 2 - i % 2, 1, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm2d(width))
            layers += [nn.LeakyReLU(0.2, inplace=True), nn.Dropout(dropout)]
            width_in = width
        self.features = nn.Sequential(*layers, nn.Flatten())
        size = width_in * (image_size // 8) ** 2
        self.source, self.classes = nn.Linear(size, 1), nn.Linear(size, num_classes)
        dcgan_init(self)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(image)
        return self.source(features).flatten(), self.classes(features)


@register("acgan")
class ACGAN(Architecture):
    needs: ClassVar[tuple[str, ...]] = ("image", "label")
    conditions: ClassVar[tuple[str, ...]] = ("label",)
    defaults: ClassVar[dict] = {"batch_size": 100}
    presets: ClassVar[dict] = {
        # in colour half of D's channels let grids through, and a fast D loses what it had
        "scenes": Preset("scenes?label=color", 2500, 64, {"image_size": 32, "ngf": 32, "dropout": 0.2}, 4096),
        # half of D's channels, of which the paper's dropout leaves too few to learn classes from
        "fashion_mnist": Preset("fashion_mnist", 4000, 64, {"ngf": 32, "ndf": 8, "dropout": 0.2, "lr": 4e-4}),
    }

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(32, "height and width of the images", minimum=16, maximum=256)
        num_classes: int = option(10, "classes that labels name", minimum=1)
        z_dim: int = option(100, "dimensions of the noise", minimum=1)
        ngf: int = option(96, "channels of the generator's last hidden layer", minimum=1)
        ndf: int = option(
            16, "channels of the discriminator's first layer, doubled by each of the next five", minimum=1
        )
        dropout: float = option(0.5, "share of the discriminator's hidden values dropped", minimum=0.0, maximum=0.99)
        lr: float = option(2e-4, "Adam's learning rate, both networks", minimum=0.0)
        beta1: float = option(0.5, "Adam's beta1, both networks", minimum=0.0, maximum=0.9999)

        def __post_init__(self) -> None:
            super().__post_init__()
            check_image_size(self.image_size)

    def __init__(self, config: ACGAN.Config) -> None:
        super().__init__(config)
        c = config
        self.generator = ConvGenerator(c.image_size, c.channels, c.z_dim, c.num_classes, c.ngf)
        self.discriminator = Discriminator(c.image_size, c.channels, c.num_classes, c.ndf, c.dropout)

    def phases(self) -> list[Phase]:
        adam = partial(Adam, lr=self.config.lr, betas=(self.config.beta1, 0.999))
        return [
            Phase("discriminator", self.discriminator.parameters(), adam, self.discriminator_loss),
            Phase("generator", self.generator.parameters(), adam, self.generator_loss, fresh_batch=False),
        ]

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        real_logits, real_classes = self.discriminator(self.real(batch))
        with torch.no_grad():
            fake = self.generate(batch)
        fake_logits, fake_classes = self.discriminator(fake)
        return {
            "source": losses.minimax_discriminator(real_logits, fake_logits),
            "class": F.cross_entropy(real_classes, batch.label) + F.cross_entropy(fake_classes, batch.label),
            "p_real": real_logits.detach().sigmoid().mean(),
            "p_fake": fake_logits.detach().sigmoid().mean(),
            "accuracy_real": (real_classes.argmax(1) == batch.label).float().mean(),
            "accuracy_fake": (fake_classes.argmax(1) == batch.label).float().mean(),
        }

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        logits, classes = self.discriminator(self.generate(batch))
        return {
            "source": losses.non_saturating_generator(logits),
            "class": F.cross_entropy(classes, batch.label),
        }

    def generate(self, batch: Batch) -> torch.Tensor:
        y = one_hot(batch, self.config.num_classes, next(self.parameters()))
        return self.generator(self.noise(batch), y)
