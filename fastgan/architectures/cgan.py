"""Conditional GAN: Mirza, Osindero, "Conditional Generative Adversarial Nets", arXiv 1411.1784, 2014.

Both networks are given a condition y. ``condition="label"``: y is a class, as a one-hot vector, and
``generate(Batch(label=...))`` draws images of it. ``condition="context"``: y is part of an image, and ``generate``
fills the hole in it (inpainting).

``network="mlp"``, the default, is the paper's MNIST experiment (section 4.1): z, 100 uniform numbers, goes through 200
ReLU units and y through 1000, both through 1200 to the image; the discriminator has 240x5 maxout units for the image
and 50x5 for y, both joined by 240x4; dropout of 0.5 in both networks; SGD with lr 0.1 divided by 1.00004 a step down to
1e-6, momentum 0.5 rising to 0.7, batches of 100. Different from the paper, or left open by it:
    the noise is uniform on [-1, 1], not [0, 1], and a sigmoid output on [0, 1] is tanh on [-1, 1], as everywhere here;
    the weights start, and the momentum rises, as in the code of Goodfellow et al. that the authors' continues (gan.py).
The discriminator's loss is the sum over real and generated images, as the paper's game (equation 2), and is not halved.

``network="dcgan"`` is DCGAN's networks, lr 2e-4 and Adam. The generator gets y beside z; the discriminator adds
<W y, f(x)> to its logit, f being its features (Miyato, Koyama, "cGANs with Projection Discriminator", ICLR 2018).

Inpainting is built as in Pathak et al., "Context Encoders: Feature Learning by Inpainting", CVPR 2016: the middle
square, half as wide as the image, is hidden; an encoder takes what is left to a vector and a decoder, given it and z,
draws the square. The images to be filled are those of ``batch.image``, whose middle is not looked at, so that any data
set of images will do. The discriminator judges the completed picture: the hole and y at once. ``lambda_l1`` adds the
distance from the true square to the generator's loss (Pathak et al. take an L2 one).

The variations of the game in _game.py are options; their defaults are the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from fastgan.architectures import dcgan
from fastgan.architectures._game import Game
from fastgan.architectures.base import Losses, Phase, Preset, option
from fastgan.architectures.gan import Maxout, init_uniform, sgd_schedule
from fastgan.data.batch import Batch
from fastgan.nn.init import dcgan_init
from fastgan.optim import Adam
from fastgan.registry import register

__all__ = ["CGAN", "ConvDiscriminator", "ConvGenerator", "Inpainter", "MLPDiscriminator", "MLPGenerator", "one_hot"]


def one_hot(batch: Batch, num_classes: int, like: torch.Tensor) -> torch.Tensor:
    """``batch.label`` (N,) as vectors (N, num_classes), in the dtype of ``like``.

    Raises ``ValueError`` where there is no label, or one outside of 0..num_classes - 1; on a GPU, which would have to
    be waited for, the latter stops the program there: the trainer looks at labels before they go to one.
    """
    label = batch.label
    if label is None:
        raise ValueError("images are drawn by class: give the batch a label (N,) int64")
    if label.dim() != 1 or label.dtype != torch.int64:
        raise ValueError(f"batch.label takes class indices (N,) int64, got {tuple(label.shape)} {label.dtype}")
    try:
        return F.embedding(label, torch.eye(num_classes, dtype=like.dtype, device=label.device))
    except IndexError:
        wrong = label[(label < 0) | (label >= num_classes)][0]
        raise ValueError(f"batch.label takes classes 0..{num_classes - 1}, got {wrong}") from None


# -- networks ----------------------------------------------------------------------------------------------------------


class MLPGenerator(nn.Module):
    """z (N, z_dim), y (N, y_dim) -> images (N, channels, image_size, image_size) in [-1, 1].

    ``hidden``: ReLU units for z, for y, and for both.
    """

    def __init__(
        self, image_size: int, channels: int, z_dim: int, y_dim: int, hidden: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        of_z, of_y, joint = hidden
        self.z = nn.Sequential(nn.Linear(z_dim, of_z), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.y = nn.Sequential(nn.Linear(y_dim, of_y), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.joint = nn.Sequential(
            nn.Linear(of_z + of_y, joint),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(joint, channels * image_size * image_size),
            nn.Tanh(),
        )
        self.image_shape = (channels, image_size, image_size)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.joint(torch.cat([self.z(z), self.y(y)], 1)).unflatten(1, self.image_shape)


class MLPDiscriminator(nn.Module):
    """Images (N, channels, image_size, image_size), y (N, y_dim) -> logits (N,).

    ``units`` and ``pieces``: of the maxout layers for the image, for y, and for both.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        y_dim: int,
        units: Sequence[int],
        pieces: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        inputs = (channels * image_size * image_size, y_dim, units[0] + units[1])
        self.x, self.y, self.joint = (
            nn.Sequential(Maxout(size, *layer), nn.Dropout(dropout))
            for size, *layer in zip(inputs, units, pieces, strict=True)
        )
        self.logit = nn.Linear(units[2], 1)

    def forward(self, image: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        features = torch.cat([self.x(image.flatten(1)), self.y(y)], 1)
        return self.logit(self.joint(features)).flatten()


class ConvGenerator(nn.Module):
    """z (N, z_dim), y (N, y_dim) -> images (N, channels, image_size, image_size) in [-1, 1]: DCGAN's of both."""

    def __init__(self, image_size: int, channels: int, z_dim: int, y_dim: int, ngf: int) -> None:
        super().__init__()
        self.decoder = dcgan.Generator(image_size, channels, z_dim + y_dim, ngf)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.cat([z, y], 1))


class ConvDiscriminator(nn.Module):
    """Images (N, channels, image_size, image_size), y (N, y_dim) -> logits (N,): DCGAN's plus <W y, features>."""

    def __init__(self, image_size: int, channels: int, y_dim: int, ndf: int) -> None:
        super().__init__()
        *features, logit = dcgan.Discriminator(image_size, channels, ndf).layers
        self.features, self.logit = nn.Sequential(*features), logit
        self.project = dcgan_init(nn.Linear(y_dim, logit.in_channels, bias=False))

    def forward(self, image: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        features = self.features(image)
        return self.logit(features).flatten() + (self.project(y) * features.sum((2, 3))).sum(1)


class Inpainter(nn.Module):
    """z (N, z_dim), images (N, channels, image_size, image_size) -> the same with another middle.

    The middle square, half as wide as the image, is neither looked at nor kept.
    """

    def __init__(self, image_size: int, channels: int, z_dim: int, context_dim: int, ngf: int) -> None:
        super().__init__()
        *features, _ = dcgan.Discriminator(image_size, channels, ngf).layers
        width = dcgan.ladder(ngf, image_size)[-1]
        self.encoder = nn.Sequential(*features, dcgan_init(nn.Conv2d(width, context_dim, 4)), nn.Flatten())
        self.decoder = dcgan.Generator(image_size // 2, channels, z_dim + context_dim, ngf)
        self.margin = image_size // 4
        middle = torch.zeros(image_size // 2, image_size // 2)
        self.register_buffer("known", self.frame(middle, 1.0), persistent=False)

    def frame(self, middle: torch.Tensor, value: float = 0.0) -> torch.Tensor:
        """(..., image_size / 2, image_size / 2) -> (..., image_size, image_size): ``value`` around it."""
        return F.pad(middle, (self.margin,) * 4, value=value)

    def middle(self, image: torch.Tensor) -> torch.Tensor:
        """(..., image_size, image_size) -> (..., image_size / 2, image_size / 2): what ``frame`` frames."""
        kept = slice(self.margin, -self.margin)
        return image[..., kept, kept]

    def forward(self, z: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        context = image * self.known
        return context + self.frame(self.decoder(torch.cat([z, self.encoder(context)], 1)))


# -- the game ----------------------------------------------------------------------------------------------------------


@register("cgan")
class CGAN(Game):
    needs: ClassVar[tuple[str, ...]] = ("image", "label")
    conditions: ClassVar[tuple[str, ...]] = ("label",)
    defaults: ClassVar[dict] = {"batch_size": 100}
    presets: ClassVar[dict] = {
        "scenes": Preset("scenes", 2000, 64, {"network": "dcgan", "image_size": 32, "ngf": 32, "ndf": 32}, 4096),
        "fashion_mnist": Preset("fashion_mnist", 6000, 64, {"network": "dcgan", "ngf": 32, "ndf": 32}),
        "fashion_mnist_inpainting": Preset(
            "fashion_mnist",
            1500,
            64,
            {"condition": "context", "lambda_l1": 10.0, "network": "dcgan", "ngf": 32, "ndf": 32},
        ),
    }

    @dataclass(frozen=True)
    class Config(Game.Config):
        image_size: int = option(32, "height and width of the images", minimum=2, maximum=256)
        condition: Literal["label", "context"] = option("label", "what images are drawn for: a class, their frame")
        network: Literal["mlp", "dcgan"] = option("mlp", "both networks: the paper's perceptrons, or convolutions")
        num_classes: int = option(10, "classes that labels name", minimum=1)
        z_dim: int = option(100, "dimensions of the noise", minimum=1)
        latent: Literal["normal", "sphere", "uniform"] = option(
            "uniform", "noise from N(0, 1), from the sphere of radius sqrt(z_dim), or from U(-1, 1)"
        )
        hidden: tuple[int, int, int] = option((200, 1000, 1200), "mlp: ReLU units for the noise, the label, and both")
        maxout_units: tuple[int, int, int] = option((240, 50, 240), "mlp: maxout units for image, label, and both")
        maxout_pieces: tuple[int, int, int] = option((5, 5, 4), "mlp: linear maps a maxout unit takes the largest of")
        dropout: float = option(0.5, "mlp: share of hidden units dropped, both networks", minimum=0.0, maximum=0.99)
        ngf: int = option(64, "dcgan: channels of the generator's last hidden layer", minimum=1)
        ndf: int = option(64, "dcgan: channels of the discriminator's first layer", minimum=1)
        context_dim: int = option(256, "context: dimensions of what the encoder makes of the frame", minimum=1)
        lambda_l1: float = option(0.0, "context: weight of the L1 distance from the true middle", minimum=0.0)
        lr: float | None = option(None, "learning rate; None: 0.1 for mlp (SGD), 2e-4 for dcgan (Adam)", minimum=0.0)
        beta1: float = option(0.5, "dcgan: Adam's beta1", minimum=0.0, maximum=0.9999)
        lr_decay: float = option(1.00004, "mlp: the learning rate is divided by this at every step", minimum=1.0)
        min_lr: float = option(1e-6, "mlp: the learning rate does not fall below this", minimum=0.0)
        momentum: float = option(0.5, "mlp: SGD's momentum at the start", minimum=0.0, maximum=0.9999)
        final_momentum: float = option(0.7, "mlp: SGD's momentum after momentum_steps", minimum=0.0, maximum=0.9999)
        momentum_steps: int = option(125_000, "mlp: steps over which the momentum rises", minimum=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.lr is None:
                object.__setattr__(self, "lr", 0.1 if self.network == "mlp" else 2e-4)
            if self.network == "dcgan":
                dcgan.check_image_size(self.image_size)
            if self.condition == "label":
                self._check_label_options()
            elif self.network == "mlp" or self.image_size < 32:
                raise ValueError(
                    f"condition='context' takes network='dcgan' and image_size from 32, got {self.network!r} and "
                    f"{self.image_size}"
                )

        def _check_label_options(self) -> None:
            if self.lambda_l1:
                raise ValueError("lambda_l1 takes condition='context': images of a class have no true one")
            if self.replay:
                raise ValueError("replay takes condition='context': old images are kept without their labels")

    def __init__(self, config: CGAN.Config) -> None:
        super().__init__(config)
        c = config
        size, channels, classes = c.image_size, c.channels, c.num_classes
        if c.condition == "context":
            self.needs = self.conditions = ("image",)
            self.generator = Inpainter(size, channels, c.z_dim, c.context_dim, c.ngf)
            self.discriminator = dcgan.Discriminator(size, channels, c.ndf)
        elif c.network == "dcgan":
            self.generator = ConvGenerator(size, channels, c.z_dim, classes, c.ngf)
            self.discriminator = ConvDiscriminator(size, channels, classes, c.ndf)
        else:
            self.generator = MLPGenerator(size, channels, c.z_dim, classes, c.hidden, c.dropout)
            self.discriminator = MLPDiscriminator(size, channels, classes, c.maxout_units, c.maxout_pieces, c.dropout)
            init_uniform(self.generator, 0.05)
            init_uniform(self.discriminator, 0.005)

    def phases(self) -> list[Phase]:
        c = self.config
        if c.network == "dcgan":
            return self.players(partial(Adam, lr=c.lr, betas=(c.beta1, 0.999)))
        phases = self.players(partial(torch.optim.SGD, lr=c.lr, momentum=c.momentum))
        rates = {"discriminator": c.lr if c.discriminator_lr is None else c.discriminator_lr, "generator": c.lr}
        for phase in phases:
            phase.schedule = partial(sgd_schedule, c, rates[phase.name])
        return phases

    def given(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The label's vector; a frame is in the picture already."""
        return () if self.config.condition == "context" else (self._label(batch),)

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        fake = self.generate(batch)
        terms = {"adversarial": self.adversarial(fake, batch, step)}
        if self.config.lambda_l1:
            middle = self.generator.middle
            terms["l1"] = self.config.lambda_l1 * F.l1_loss(middle(fake), middle(batch.image))
        return terms

    def generate(self, batch: Batch) -> torch.Tensor:
        y = self.real(batch) if self.config.condition == "context" else self._label(batch)
        return self.generator(self.noise(batch), y)

    def _label(self, batch: Batch) -> torch.Tensor:
        return one_hot(batch, self.config.num_classes, next(self.parameters()))
