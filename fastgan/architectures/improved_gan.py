"""Improved GAN: Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, "Improved Techniques for Training GANs", NeurIPS
2016.

A discriminator that is a classifier of K classes: "generated" is class K + 1, whose logit is fixed at 0, so that
D(x) = Z / (Z + 1), Z = sum_k exp(l_k). Few samples have a label (the others -1); ``predict`` gives the class logits.
Each remedy of the paper is an option: feature matching (3.1; on, as in the semi-supervised experiments), minibatch
discrimination (3.2), historical averaging (3.3), one-sided label smoothing (3.4), virtual batch norm in the generator
(3.5; the paper's too costly for both).

Networks and settings are those of the authors' semi-supervised code: for CIFAR-10 a discriminator of nine convolutions
with weight norm, LeakyReLU(0.2) and dropout, Adam with lr 3e-4 and beta1 0.5, batches of 100; for MNIST
(``network="mlp"``, there with lr 3e-3) ReLU layers 1000-500-250-250-250 with weight norm and Gaussian noise before
each, and a softplus generator 500-500. Noise from U(0, 1)^100.

Differs from that code: weight norm learns every layer's scale and starts from He's initialisation, where theirs takes
both from the first batch. The convolutional generator is DCGAN's, with kernels of 4 and not 5. Pixels go from -1
to 1: the noise on them is twice as strong. Features are matched by mean squares in both networks, as theirs for MNIST.
One batch holds labelled and unlabelled images, where theirs are two; the trainer's averages are of both networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fastgan import losses
from fastgan.architectures import dcgan
from fastgan.architectures.base import Architecture, Losses, Phase, Preset, option
from fastgan.data.batch import Batch
from fastgan.nn.layers import GaussianNoise, HistoricalAverage, MinibatchDiscrimination, virtual_batch_norm_
from fastgan.ops import _noise
from fastgan.optim import Adam
from fastgan.registry import register

__all__ = ["Discriminator", "ImprovedGAN", "Judgement", "MLPGenerator"]

PIXEL_NOISE, HIDDEN_NOISE = 2 * 0.3, 0.5


class Judgement(NamedTuple):
    """What the discriminator says of N images."""

    evidence: torch.Tensor  # (N,): logit of D(x)
    classes: torch.Tensor  # (N, num_classes): class logits
    features: torch.Tensor  # (N, F): what feature matching compares


class MLPGenerator(nn.Module):
    """z (N, z_dim) -> images (N, channels, image_size, image_size) in [-1, 1]; two softplus layers with batch norm."""

    def __init__(self, image_size: int, channels: int, z_dim: int, hidden: int = 500) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(z_dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.Softplus(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.Softplus(),
            nn.Linear(hidden, channels * image_size**2),
            nn.Tanh(),
            nn.Unflatten(1, (channels, image_size, image_size)),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z)


def normalized(layer: nn.Linear | nn.Conv2d, slope: float) -> nn.Module:
    """Weight norm, from He's weights for a ReLU of this slope: torch's leave less of the input than there is noise."""
    nn.init.kaiming_normal_(layer.weight, a=slope)
    return weight_norm(layer)


def mlp_trunk(image_size: int, channels: int) -> tuple[nn.Module, int]:
    """Images -> features (N, F) by noisy perceptron layers, and F."""
    widths = (channels * image_size**2, 1000, 500, 250, 250, 250)
    layers: list[nn.Module] = [nn.Flatten(), GaussianNoise(PIXEL_NOISE)]
    for i, (width_in, width) in enumerate(pairwise(widths)):
        layers += [GaussianNoise(HIDDEN_NOISE)] if i else []
        layers += [normalized(nn.Linear(width_in, width), 0.0), nn.ReLU()]
    return nn.Sequential(*layers), widths[-1]


def conv_trunk(channels: int, ndf: int) -> tuple[nn.Module, int]:
    """Images -> features (N, F) by nine convolutions and the mean over places, and F."""
    layers: list[nn.Module] = [nn.Dropout(0.2)]
    width_in = channels
    plan = [(1, 3, 1, 1), (1, 3, 1, 1), (1, 3, 2, 1), (2, 3, 1, 1), (2, 3, 1, 1), (2, 3, 2, 1)]
    plan += [(2, 3, 1, 0), (2, 1, 1, 0), (2, 1, 1, 0)]
    for i, (factor, kernel, stride, padding) in enumerate(plan):
        layers += [nn.Dropout(0.5)] if i in (3, 6) else []
        layers += [normalized(nn.Conv2d(width_in, factor * ndf, kernel, stride, padding), 0.2), nn.LeakyReLU(0.2)]
        width_in = factor * ndf
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width_in


class Discriminator(nn.Module):
    """Images (N, channels, H, W) -> Judgement. ``minibatch``: kernels of minibatch discrimination; 0: none."""

    def __init__(self, trunk: nn.Module, features: int, num_classes: int, minibatch: int, noise: float) -> None:
        super().__init__()
        self.trunk = trunk
        self.minibatch = MinibatchDiscrimination(features, minibatch) if minibatch else nn.Identity()
        self.head = nn.Sequential(GaussianNoise(noise), weight_norm(nn.Linear(features + minibatch, num_classes)))

    def forward(self, image: torch.Tensor) -> Judgement:
        features = self.trunk(image)
        classes = self.head(self.minibatch(features))
        return Judgement(losses.class_evidence(classes), classes, features)


@register("improved_gan")
class ImprovedGAN(Architecture):
    needs: ClassVar[tuple[str, ...]] = ("image", "label")
    generators: ClassVar[tuple[str, ...]] = ("generator", "discriminator")  # the authors test with averaged weights
    defaults: ClassVar[dict] = {"batch_size": 100}
    presets: ClassVar[dict[str, Preset]] = {
        "scenes": Preset("scenes?labels=300", 1000, 64, {"ngf": 16, "ndf": 16}),
        "mnist_5k": Preset("mnist_5k?labels=100", 2000, 100, {"network": "mlp", "image_size": 28, "lr": 1e-3}),
    }

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(32, "height and width of the images in pixels", minimum=1)
        num_classes: int = option(10, "classes", minimum=2)
        network: Literal["conv", "mlp"] = option("conv", "both networks: convolutions or perceptrons")
        z_dim: int = option(100, "dimensions of the noise", minimum=1)
        ngf: int = option(128, "channels of the convolutional generator's last hidden layer", minimum=1)
        ndf: int = option(96, "channels of the convolutional discriminator's first layer", minimum=1)
        generator_loss: Literal["feature_matching", "non_saturating"] = option(
            "feature_matching", "what the generator drives down"
        )
        unlabelled_weight: float = option(1.0, "weight of D's loss on unlabelled and generated images", minimum=0.0)
        label_smoothing: float = option(
            0.0, "unlabelled images' labels are so much nearer to the generated ones' (one-sided)",
            minimum=0.0, maximum=1.0,
        )  # fmt: skip
        minibatch_kernels: int = option(0, "kernels of minibatch discrimination (the paper: 100); 0: none", minimum=0)
        historical_averaging: float = option(0.0, "weight of the pull towards the parameters' past", minimum=0.0)
        virtual_batch: int = option(
            0, "images of the reference batch of the generator's virtual batch norm; 0: batch norm", minimum=0
        )
        lr: float = option(3e-4, "Adam's learning rate, both networks (the authors' MNIST: 3e-3)", minimum=0.0)
        beta1: float = option(0.5, "Adam's beta1, both networks", minimum=0.0, maximum=0.9999)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.network == "conv":
                dcgan.check_image_size(self.image_size)
            if self.virtual_batch == 1:
                raise ValueError("virtual_batch takes 0, or at least 2 images, got 1: one has no variance")

    def __init__(self, config: ImprovedGAN.Config) -> None:
        super().__init__(config)
        c = config
        if c.network == "conv":
            self.generator: nn.Module = dcgan.Generator(c.image_size, c.channels, c.z_dim, c.ngf)
            trunk, features = conv_trunk(c.channels, c.ndf)
        else:
            self.generator = MLPGenerator(c.image_size, c.channels, c.z_dim)
            trunk, features = mlp_trunk(c.image_size, c.channels)
        noise = 0.0 if c.network == "conv" else HIDDEN_NOISE
        self.discriminator = Discriminator(trunk, features, c.num_classes, c.minibatch_kernels, noise)
        if c.virtual_batch:
            reference = _noise.rand(c.virtual_batch, c.z_dim, device=torch.device("cpu"), dtype=torch.float32)
            self.generator = virtual_batch_norm_(self.generator, reference)
        self.history = nn.ModuleDict()
        if c.historical_averaging:
            for player in ("discriminator", "generator"):
                self.history[player] = HistoricalAverage(getattr(self, player).parameters())

    def phases(self) -> list[Phase]:
        adam = partial(Adam, lr=self.config.lr, betas=(self.config.beta1, 0.999))
        return [
            Phase(name, getattr(self, name).parameters(), adam, loss, after=partial(self.remember, name))
            for name, loss in (("discriminator", self.discriminator_loss), ("generator", self.generator_loss))
        ]

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        c, real = self.config, self.discriminator(self.real(batch))
        with torch.no_grad():
            image = self.generate(batch)
        fake = self.discriminator(image)
        supervised, unsupervised = losses.semi_supervised_discriminator(
            real.classes, fake.classes, batch.label, c.label_smoothing
        )
        return {
            "supervised": supervised,
            "unsupervised": c.unlabelled_weight * unsupervised,
            **self.pull("discriminator"),
            "p_real": real.evidence.detach().sigmoid().mean(),
            "p_fake": fake.evidence.detach().sigmoid().mean(),
        }

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        fake = self.discriminator(self.generate(batch))
        if self.config.generator_loss == "non_saturating":
            return {"adversarial": losses.non_saturating_generator(fake.evidence), **self.pull("generator")}
        with torch.no_grad():
            real = self.discriminator(self.real(batch))
        matching = losses.feature_matching(real.features, fake.features, batch.label)
        return {"feature_matching": matching, **self.pull("generator")}

    def pull(self, player: str) -> Losses:
        """Towards the mean of the player's parameters so far, where that is asked for."""
        if player not in self.history:
            return {}
        distance = self.history[player](getattr(self, player).parameters())
        return {"history": self.config.historical_averaging * distance}

    def remember(self, player: str, step: int) -> None:
        if player in self.history:
            self.history[player].update(getattr(self, player).parameters())

    def latent(self, n: int) -> torch.Tensor:
        """Noise (n, z_dim) from U(0, 1)."""
        like = next(self.parameters())
        return _noise.rand(n, self.config.z_dim, device=like.device, dtype=like.dtype)

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.generator(self.noise(batch))

    def predict(self, batch: Batch) -> torch.Tensor:
        """Class logits (N, num_classes)."""
        return self.discriminator(self.real(batch)).classes
