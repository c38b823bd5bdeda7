"""DCGAN: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs", ICLR 2016.

The paper's rules (section 3): strided and transposed convolutions instead of pooling, batch norm in both networks
except at the generator's output and the discriminator's input, no fully connected hidden layers, ReLU and tanh in
the generator, LeakyReLU(0.2) in the discriminator; weights from N(0, 0.02), Adam with lr 2e-4 and beta1 0.5. Kernels
are 4x4 with stride 2 and padding 1, as in the authors' Torch code, so that the image size is a power of two. The
paper draws 64 px; from 128 px on the added layers keep the widest layer's 8 ngf channels instead of doubling on.

Losses, penalties and the published tips for training it are options; their defaults are the paper's (see _game.py).
Spectral norm: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgan.architectures._game import Game
from fastgan.architectures.base import Phase, Preset, option
from fastgan.nn.init import dcgan_init
from fastgan.nn.layers import AlwaysDropout
from fastgan.optim import Adam
from fastgan.registry import register

__all__ = ["DCGAN", "Discriminator", "Generator", "check_image_size"]


def check_image_size(image_size: int) -> None:
    """Raise ``ValueError`` unless the ladder of 4x4 stride-2 layers reaches this size: powers of two from 16 to 256."""
    if image_size not in (16, 32, 64, 128, 256):
        raise ValueError(
            f"image_size takes a power of two from 16 to 256, got {image_size}: images of another size are resized "
            "to it when the data is read"
        )


def ladder(width: int, image_size: int) -> list[int]:
    """Channels at image_size/2, image_size/4, ..., 4: width times 1, 2, 4, 8, 8, ..."""
    check_image_size(image_size)
    layers = image_size.bit_length() - 3  # log2(image_size) - 2: halvings from image_size/2 down to 4, inclusive
    return [width * min(2**i, 8) for i in range(layers)]


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, channels, image_size, image_size) in [-1, 1].

    ``dropout``: share of the values dropped after each of the first three layers, in eval mode too, as in pix2pix.
    """

    def __init__(
        self, image_size: int, channels: int, z_dim: int, ngf: int, norm: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in, stride, padding = z_dim, 1, 0  # the first layer takes 1x1 to 4x4
        for i, width in enumerate(reversed(ladder(ngf, image_size))):
            layers.append(nn.ConvTranspose2d(width_in, width, 4, stride, padding, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            if dropout and i < 3:
                layers.append(AlwaysDropout(dropout))
            width_in, stride, padding = width, 2, 1
        layers += [nn.ConvTranspose2d(width_in, channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        dcgan_init(self)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """Images (N, channels, image_size, image_size) -> logits (N,).

    ``norm=False`` leaves batch norm out: a critic. ``spectral=True`` keeps every layer's largest singular value at 1.
    """

    def __init__(self, image_size: int, channels: int, ndf: int, norm: bool = True, spectral: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = channels
        for i, width in enumerate(ladder(ndf, image_size)):
            norm_here = norm and i > 0
            layers.append(nn.Conv2d(width_in, width, 4, 2, 1, bias=not norm_here))
            if norm_here:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            width_in = width
        layers.append(nn.Conv2d(width_in, 1, 4, 1, 0))  # 4x4 to 1x1
        self.layers = nn.Sequential(*layers)
        dcgan_init(self)
        if spectral:
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image).flatten()


@register("dcgan")
class DCGAN(Game):
    @dataclass(frozen=True)
    class Config(Game.Config):
        z_dim: int = option(100, "dimensions of the noise", minimum=1)
        ngf: int = option(64, "channels of the generator's last hidden layer", minimum=1)
        ndf: int = option(64, "channels of the discriminator's first layer", minimum=1)
        lr: float = option(2e-4, "Adam's learning rate, both networks", minimum=0.0)
        beta1: float = option(0.5, "Adam's beta1, both networks", minimum=0.0, maximum=0.9999)
        discriminator_norm: Literal["batch", "spectral", "none"] = option("batch", "normalisation in the discriminator")
        generator_dropout: float = option(
            0.0, "share dropped after the generator's first layers, when sampling too", minimum=0.0, maximum=0.99
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            check_image_size(self.image_size)

    # half the paper's channels, at half its image size
    presets: ClassVar[dict[str, Preset]] = {
        "scenes": Preset("scenes", 2000, model={"image_size": 32, "ngf": 32, "ndf": 32}),
        "cifar10": Preset("cifar10", 2000, model={"image_size": 32, "ngf": 32, "ndf": 32}),
        "fashion_mnist": Preset("fashion_mnist", 1500, model={"image_size": 32, "ngf": 32, "ndf": 32}),
    }

    def __init__(self, config: DCGAN.Config) -> None:
        super().__init__(config)
        c = config
        self.generator = Generator(c.image_size, c.channels, c.z_dim, c.ngf, dropout=c.generator_dropout)
        self.discriminator = Discriminator(
            c.image_size,
            c.channels,
            c.ndf,
            norm=c.discriminator_norm == "batch",
            spectral=c.discriminator_norm == "spectral",
        )

    def phases(self) -> list[Phase]:
        return self.players(partial(Adam, lr=self.config.lr, betas=(self.config.beta1, 0.999)))
