"""InfoGAN: Chen et al., "InfoGAN: Interpretable Representation Learning by Information Maximizing GANs", NeurIPS 2016.

The latent is noise z and codes c, and the game has a third term: min_{G,Q} max_D V(D, G) - lambda L_I(G, Q), where
L_I = E[log Q(c | G(z, c))] + H(c) <= I(c; G(z, c)). A generator that ignores its codes pays for it; what they come to
mean is found without labels. Q is a small head on the discriminator's features (section 4).

Networks and settings are those of the MNIST experiment (appendix C.1 and the authors' code, where the two say more
than one another): one code of ten categories, two uniform ones and 62 uniform variables of noise; G: FC 1024, FC
7x7x128, 4x4 upconv 64, 4x4 upconv 1; D: 4x4 conv 64, 4x4 conv 128, FC 1024, FC 1; Q: FC 128, FC; batch norm on all but
the first and last layers of D and the last of G; weights from N(0, 0.02); Adam with beta1 0.5, lr 2e-4 for D and Q and
1e-3 for G; lambda 1; batches of 128.

Who trains Q: as in the authors' code the bound stands in both players' losses. D's update drives it up over the shared
trunk and Q, G's over G. The paper's equation 6 has Q alone there; but trunk and Q are one network up to the last
layers, and features that are trained to tell real from fake only have no reason to keep the codes.

Departures:
- Images are in [-1, 1] through tanh (the authors' code: in [0, 1] through a sigmoid).
- The paper has 28 px. Other sizes, 4 to 7 pixels times a power of two, take as many 4x4 stride-2 layers as lead there,
  their channels doubling up to 8 times the first (as in DCGAN).
- The continuous codes' term has a weight of its own, 0.1. Section 6 wants a smaller lambda for them, so that a
  differential entropy, which has no bound, stays on the scale of the game, and names no number for MNIST; the authors'
  code there fixes Q's standard deviation to 1 instead and keeps lambda 1. Here Q learns it (through an exponential, as
  appendix C says), which leaves L_I a bound in nats that can be tight: with a deviation of 1 it stays below -0.2.
- LeakyReLU's slope is the paper's 0.1; the authors' code has 0.01.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from fastgan import losses
from fastgan.architectures._schedules import linear_decay
from fastgan.architectures.base import Architecture, Losses, Phase, Preset, option
from fastgan.data.batch import Batch
from fastgan.nn.init import dcgan_init
from fastgan.ops import _noise
from fastgan.optim import Adam
from fastgan.registry import register

__all__ = ["Discriminator", "Generator", "InfoGAN", "Posterior", "Recognition"]

SLOPE = 0.1  # of LeakyReLU
SMALL = {"ngf": 32, "ndf": 32, "hidden": 256, "q_hidden": 64}  # for minutes on a CPU


def halvings(image_size: int) -> int:
    """Stride-2 layers between ``image_size`` and a map of 4 to 7 pixels; ``ValueError`` where none leads there."""
    count, pixels = 0, image_size
    while pixels > 7 and pixels % 2 == 0:
        count, pixels = count + 1, pixels // 2
    if count < 2 or not 4 <= pixels <= 7 or image_size > 256:
        raise ValueError(
            f"image_size takes 4, 5, 6 or 7 times a power of two from 16 to 256 (16, 20, 24, 28, 32, 40, ...), got "
            f"{image_size}: images of another size are resized to it when the data is read"
        )
    return count


def ladder(width: int, image_size: int) -> list[int]:
    """Channels at image_size/2, image_size/4, ..., 4 to 7 pixels: width times 1, 2, 4, 8, 8, ..."""
    return [width * min(2**i, 8) for i in range(halvings(image_size))]


class Generator(nn.Module):
    """Latents (N, latent_dim) -> images (N, channels, image_size, image_size) in [-1, 1]."""

    def __init__(self, image_size: int, channels: int, latent_dim: int, ngf: int, hidden: int) -> None:
        super().__init__()
        widths = [*reversed(ladder(ngf, image_size)), channels]
        pixels = image_size >> halvings(image_size)
        map_units = widths[0] * pixels**2
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, map_units, bias=False),
            nn.BatchNorm1d(map_units),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (widths[0], pixels, pixels)),
        ]
        for width_in, width in zip(widths[:-2], widths[1:-1], strict=True):
            layers += [
                nn.ConvTranspose2d(width_in, width, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(widths[-2], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        dcgan_init(self)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.layers(latent)


class Discriminator(nn.Module):
    """Images (N, channels, image_size, image_size) -> (logits (N,), features (N, hidden)), the features being Q's."""

    def __init__(self, image_size: int, channels: int, ndf: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = channels
        for i, width in enumerate(ladder(ndf, image_size)):
            layers.append(nn.Conv2d(width_in, width, 4, 2, 1, bias=i == 0))
            if i > 0:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(SLOPE, inplace=True))
            width_in = width
        pixels = image_size >> halvings(image_size)
        layers += [
            nn.Flatten(),
            nn.Linear(width_in * pixels**2, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(hidden, 1)
        dcgan_init(self)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.trunk(image)
        return self.head(features).flatten(), features


class Posterior(NamedTuple):
    """Q(c | x): what the recognition network says of the codes of N images."""

    logits: torch.Tensor  # (N, categorical, categories): softmax over the last gives probabilities
    mean: torch.Tensor  # (N, continuous): of a normal distribution for each continuous code
    log_std: torch.Tensor  # (N, continuous): log of its standard deviation


class Recognition(nn.Module):
    """Q: the discriminator's features (N, features) -> ``Posterior`` of the codes."""

    def __init__(self, features: int, hidden: int, categorical: int, categories: int, continuous: int) -> None:
        super().__init__()
        self.shape = (categorical, categories)
        self.sizes = [categorical * categories, continuous, continuous]
        self.layers = nn.Sequential(
            nn.Linear(features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(hidden, sum(self.sizes)),
        )
        dcgan_init(self)

    def forward(self, features: torch.Tensor) -> Posterior:
        logits, mean, log_std = self.layers(features).split(self.sizes, dim=1)
        return Posterior(logits.unflatten(1, self.shape), mean, log_std)


@register("infogan")
class InfoGAN(Architecture):
    """The latent, (N, latent_dim), is [noise z_dim | one-hot categorical x categories | continuous in [-1, 1]]."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(28, "height and width of the images in pixels", minimum=1)
        z_dim: int = option(62, "dimensions of the noise, which no code explains", minimum=1)
        categorical: int = option(1, "categorical codes", minimum=0)
        categories: int = option(10, "values of each categorical code", minimum=2)
        continuous: int = option(2, "continuous codes, uniform on [-1, 1]", minimum=0)
        lambda_info: float = option(1.0, "weight of the categorical codes' information", minimum=0.0)
        lambda_continuous: float = option(0.1, "weight of the continuous codes' information", minimum=0.0)
        ngf: int = option(64, "channels of the generator's last hidden layer", minimum=1)
        ndf: int = option(64, "channels of the discriminator's first layer", minimum=1)
        hidden: int = option(1024, "units of the fully connected hidden layer of each network", minimum=1)
        q_hidden: int = option(128, "units of the recognition network's hidden layer", minimum=1)
        lr: float = option(1e-3, "Adam's learning rate, generator", minimum=0.0)
        discriminator_lr: float = option(2e-4, "Adam's learning rate, discriminator and recognition", minimum=0.0)
        lr_decay_steps: int | None = option(None, "steps over which both rates fall to 0; None: they stay", minimum=1)
        beta1: float = option(0.5, "Adam's beta1, all networks", minimum=0.0, maximum=0.9999)

        def __post_init__(self) -> None:
            super().__post_init__()
            halvings(self.image_size)
            if not self.categorical and not self.continuous:
                raise ValueError("categorical and continuous are both 0: InfoGAN takes at least one code of either")

    # the trainer averages what answers codes() as well
    generators: ClassVar[tuple[str, ...]] = ("generator", "discriminator", "recognition")
    defaults: ClassVar[dict] = {"batch_size": 128}
    presets: ClassVar[Mapping[str, Preset]] = {
        # D as fast as G: at the paper's rate it learns what sets digits apart long after the categories have settled.
        # Categories fall into place late, and the rates fall so that they come to rest.
        "mnist_5k": Preset(
            "mnist_5k",
            steps=12_000,
            batch_size=64,
            model={
                **SMALL,
                "image_size": 16,
                "channels": 1,
                "z_dim": 16,
                "lr": 2e-3,
                "discriminator_lr": 2e-3,
                "lr_decay_steps": 12_000,
            },
        ),
        # codes as for the paper's faces, all continuous; little noise, or it has the place instead of a code
        "scenes": Preset(
            "scenes?vary=shape,x,sky_hue",
            steps=2500,
            batch_size=64,
            model={**SMALL, "image_size": 16, "z_dim": 4, "categorical": 0, "discriminator_lr": 3e-4},
        ),
    }

    def __init__(self, config: InfoGAN.Config) -> None:
        super().__init__(config)
        c = config
        self._sizes = [c.z_dim, c.categorical * c.categories, c.continuous]
        self.latent_dim = sum(self._sizes)
        self.generator = Generator(c.image_size, c.channels, self.latent_dim, c.ngf, c.hidden)
        self.discriminator = Discriminator(c.image_size, c.channels, c.ndf, c.hidden)
        self.recognition = Recognition(c.hidden, c.q_hidden, c.categorical, c.categories, c.continuous)

    # -- training ------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        c = self.config
        adam = partial(Adam, betas=(c.beta1, 0.999))
        return [
            Phase(
                "discriminator",
                [*self.discriminator.parameters(), *self.recognition.parameters()],
                partial(adam, lr=c.discriminator_lr),
                self.discriminator_loss,
                schedule=linear_decay(c.discriminator_lr, c.lr_decay_steps),
            ),
            Phase(
                "generator",
                self.generator.parameters(),
                partial(adam, lr=c.lr),
                self.generator_loss,
                fresh_batch=False,
                schedule=linear_decay(c.lr, c.lr_decay_steps),
            ),
        ]

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        real_logits, _ = self.discriminator(self.real(batch))
        latent = self.noise(batch)
        with torch.no_grad():
            fake = self.generator(latent)
        fake_logits, features = self.discriminator(fake)
        return {
            "adversarial": losses.non_saturating_discriminator(real_logits, fake_logits),
            **self._information(features, latent),
            "p_real": real_logits.detach().sigmoid().mean(),
            "p_fake": fake_logits.detach().sigmoid().mean(),
        }

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        latent = self.noise(batch)
        fake_logits, features = self.discriminator(self.generator(latent))
        return {
            "adversarial": losses.non_saturating_generator(fake_logits),
            **self._information(features, latent),
        }

    def information(self, posterior: Posterior, latent: torch.Tensor) -> Losses:
        """L_I in nats of the "categorical" codes, at most categorical x log(categories), and of the "continuous" ones.

        ``posterior``: Q's of the images that ``latent`` (N, latent_dim) generated. A kind without codes is left out.
        """
        _, categorical, continuous = self.split(latent)
        bounds = {}
        if self.config.categorical:
            bounds["categorical"] = losses.categorical_information(posterior.logits, categorical)
        if self.config.continuous:
            bounds["continuous"] = losses.uniform_information(posterior.mean, posterior.log_std, continuous)
        return bounds

    def _information(self, features: torch.Tensor, latent: torch.Tensor) -> Losses:
        """-lambda L_I of either kind of code, and for the records L_I itself."""
        weights = {"categorical": self.config.lambda_info, "continuous": self.config.lambda_continuous}
        terms = {}
        for kind, bound in self.information(self.recognition(features), latent).items():
            terms |= {f"{kind}_codes": -weights[kind] * bound, f"{kind}_nats": bound.detach()}
        return terms

    # -- the latent ----------------------------------------------------------------------------------------------
    def latent(self, n: int) -> torch.Tensor:
        """Draw latents (n, latent_dim): noise and continuous codes from U(-1, 1), categories with equal chances."""
        c, like = self.config, next(self.parameters())
        columns = c.z_dim + c.categorical + c.continuous
        u = _noise.rand(n, columns, device=like.device, dtype=torch.float32)  # half precision has too few values
        noise, categorical, continuous = u.split([c.z_dim, c.categorical, c.continuous], dim=1)
        one_hot = self._one_hot((categorical * c.categories).long().clamp(max=c.categories - 1)).flatten(1)
        return torch.cat([2 * noise - 1, one_hot, 2 * continuous - 1], dim=1).to(like.dtype)

    def _one_hot(self, category: torch.Tensor) -> torch.Tensor:
        """(...) int64 -> (..., categories) bool; torch's one_hot looks at the values, for which a device waits."""
        return category[..., None] == torch.arange(self.config.categories, device=category.device)

    def noise(self, batch: Batch) -> torch.Tensor:
        """``batch.latent`` where present, else fresh latents for every item of the batch. Shape (N, latent_dim)."""
        if batch.latent is None:
            return self.latent(len(batch))
        if batch.latent.shape[1:] != (self.latent_dim,):
            c = self.config
            raise ValueError(
                f"batch.latent takes shape (N, {self.latent_dim}), got {tuple(batch.latent.shape)}: {c.z_dim} columns "
                f"of noise, {c.categorical} x {c.categories} one-hot, {c.continuous} continuous; latent(n) draws some"
            )
        return batch.latent

    def split(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noise (N, z_dim), categorical codes (N, categorical, categories), one-hot, and continuous (N, continuous)."""
        noise, categorical, continuous = latent.split(self._sizes, dim=1)
        return noise, categorical.unflatten(1, (self.config.categorical, self.config.categories)), continuous

    def traverse(self, latent: torch.Tensor, code: int, values: Sequence[float] | None = None) -> torch.Tensor:
        """Latents (N, V, latent_dim): each of ``latent`` (N, latent_dim) with one code at each of V values.

        ``code``: its number, the categorical ones first. ``values``: categories from 0, or numbers; by default all
        categories, or ten numbers from -1 to 1. ``generate`` takes the result as ``Batch(latent=t.flatten(0, 1))``.
        """
        c = self.config
        if not 0 <= code < c.categorical + c.continuous:
            raise ValueError(f"code takes 0 to {c.categorical + c.continuous - 1}, got {code!r}")
        latent = self.noise(Batch(latent=latent))
        categorical = code < c.categorical
        if values is None:
            values = range(c.categories) if categorical else torch.linspace(-1, 1, 10).tolist()
        if categorical and not all(value in range(c.categories) for value in values):
            raise ValueError(f"values of categorical code {code} takes whole numbers from 0 to {c.categories - 1}")
        varied = latent[:, None].repeat(1, len(values), 1)
        chosen = torch.as_tensor(values, device=latent.device)
        if categorical:
            start = c.z_dim + code * c.categories
            varied[:, :, start : start + c.categories] = self._one_hot(chosen.long()).to(latent.dtype)
        else:
            varied[:, :, self.latent_dim - c.continuous + code - c.categorical] = chosen.to(latent.dtype)
        return varied

    # -- inference -----------------------------------------------------------------------------------------------
    def generate(self, batch: Batch) -> torch.Tensor:
        return self.generator(self.noise(batch))

    def codes(self, image: torch.Tensor) -> Posterior:
        """Q's posterior of the codes of images (N, channels, image_size, image_size) in [-1, 1], real or generated.

        ``codes(image).logits.argmax(2)`` sorts images into categories. Runs in the module's present train / eval mode.
        """
        _, features = self.discriminator(self.real(Batch(image=image)))
        return self.recognition(features)
