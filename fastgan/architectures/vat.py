"""VAT: Miyato, Maeda, Koyama, Ishii, "Virtual Adversarial Training: A Regularization Method for Supervised and
Semi-Supervised Learning", TPAMI 2018 (first as "Distributional Smoothing with Virtual Adversarial Training", 2015).

A classifier kept smooth around every sample, labelled or not, in the direction in which its answer changes most; no
generator. ``regularizer`` chooses what it is trained against: virtual adversarial perturbations; adversarial ones,
which need labels (Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015: fast
gradient sign); or none. ``entropy_weight=1`` is the paper's VAT+EntMin.

Settings: one iteration of the power method, weight 1; Adam with lr 2e-3 falling by a tenth every 500 updates, as on
MNIST. The length of a perturbation is the data's: 2.1 is the 2015 paper's for MNIST with all labels (0.3 with 100
labels there); the authors' code of 2018 takes 10 on whitened CIFAR-10 and 2.5 on SVHN; fast gradient sign takes 0.25 a
pixel on MNIST. Lengths count on pixels from 0 to 1, as in the papers; pixels here go from -1 to 1, and the perturbation
is twice as long. Networks: the convolutional one of the authors' code, and their perceptron for MNIST.

``input="text"``: Miyato, Dai, Goodfellow, "Adversarial Training Methods for Semi-Supervised Text Classification", ICLR
2017: the perturbation is that of the embedded tokens, each component of which has mean 0 and variance 1 over the
tokens of the data; epsilon 5.

Differs from the papers: xi is 1e-3 and not 1e-6, with which rounding chooses the direction in float32 on pixels from -1
to 1: its cosine to the exact one was 0.1 to 0.2 there, and is above 0.998 at 1e-3 (both networks, fashion_mnist). One
batch holds labelled samples and others (label -1), where theirs are two batches. No dropout in the convolutional
network: the divergence compares two passes, in which theirs draw the same masks. Adversarial training adds the
perturbed cross-entropy to the plain one with weight 1; Goodfellow's average of both is half of that, which Adam does
not notice. Text: convolutions and a maximum over time where the paper has an LSTM trained as a language model first;
tokens are the bytes of Batch.text unless ``vocabulary`` says otherwise; their frequencies are those seen so far.
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
from fastgan.nn.layers import kept_statistics
from fastgan.optim import Adam
from fastgan.registry import register

__all__ = ["VAT", "ConvClassifier", "MLPClassifier", "NormalizedEmbedding", "TextClassifier"]

EPSILON = {"virtual_adversarial": 2.1, "adversarial": 0.25}  # of images
TEXT_EPSILON = 5.0


class ConvClassifier(nn.Module):
    """Images (N, channels, H, W), H and W at least 12 -> class logits (N, num_classes); batch norm, LeakyReLU(0.1)."""

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = channels
        for i, (factor, kernel, padding) in enumerate(
            [(1, 3, 1)] * 3 + [(2, 3, 1)] * 3 + [(4, 3, 0), (2, 1, 0), (1, 1, 0)]
        ):
            if i in (3, 6):
                layers.append(nn.MaxPool2d(2))
            layers += [
                nn.Conv2d(width_in, factor * width, kernel, padding=padding, bias=False),
                nn.BatchNorm2d(factor * width),
                nn.LeakyReLU(0.1),
            ]
            width_in = factor * width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(image).mean((2, 3)))


class MLPClassifier(nn.Module):
    """Images (N, channels, image_size, image_size) -> class logits (N, num_classes); ReLU layers with batch norm."""

    def __init__(self, image_size: int, channels: int, hidden: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        widths = (channels * image_size**2, *hidden)
        for width_in, width in pairwise(widths):
            layers += [nn.Linear(width_in, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class NormalizedEmbedding(nn.Module):
    """Tokens (N, T) int64 -> (N, dim, T): components of mean 0 and variance 1 over the tokens seen so far in training.

    Otherwise a classifier would grow its embeddings until no perturbation counts. Token 0 fills up the end of a text:
    it is embedded as 0 and counted nowhere.
    """

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary, dim))
        self.register_buffer("counts", torch.zeros(vocabulary, dtype=torch.int64))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen = tokens.flatten()
            self.counts.index_add_(0, seen, (seen > 0).to(self.counts.dtype))
        frequency = (self.counts / self.counts.sum().clamp(min=1))[:, None]
        centred = self.weight - (frequency * self.weight).sum(0)
        table = centred * ((frequency * centred.square()).sum(0) + 1e-6).rsqrt()
        return (table[tokens] * (tokens > 0)[..., None]).transpose(1, 2)


class TextClassifier(nn.Module):
    """Embedded tokens (N, dim, T) -> class logits (N, num_classes): convolutions, the maximum over time, one layer."""

    def __init__(self, dim: int, width: int, kernel: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(dim, width, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv1d(width, width, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        )

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        return self.layers(embedded)


@register("vat")
class VAT(Architecture):
    needs: ClassVar[tuple[str, ...]] = ("image", "label")
    conditions: ClassVar[tuple[str, ...]] = ("image",)
    generators: ClassVar[tuple[str, ...]] = ()
    discriminators: ClassVar[tuple[str, ...]] = ()

    presets: ClassVar[dict[str, Preset]] = {
        "scenes": Preset("scenes?labels=300", 1500, 64, {"width": 16}),
        "fashion_mnist": Preset("fashion_mnist?labels=100", 1500, 128, {"network": "mlp", "image_size": 28}),
        "mnist_5k": Preset("mnist_5k?labels=100", 600, 64, {"width": 16, "image_size": 28}),
    }

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(32, "height and width of the images in pixels", minimum=1)
        input: Literal["image", "text"] = option("image", "what is classified: Batch.image or Batch.text")
        num_classes: int = option(10, "classes", minimum=2)
        network: Literal["conv", "mlp"] = option("conv", "the classifier of images: convolutions or a perceptron")
        width: int = option(128, "channels of the convolutional classifiers' first layers", minimum=1)
        hidden: tuple[int, ...] = option((1200, 600, 300, 150), "units of the perceptron's hidden layers")
        vocabulary: int = option(256, "tokens of a text; 256: bytes", minimum=1)
        embedding: int = option(256, "components of an embedded token", minimum=1)
        kernel: int = option(5, "tokens that a convolution over text sees", minimum=1)
        regularizer: Literal["virtual_adversarial", "adversarial", "none"] = option(
            "virtual_adversarial", "perturbations that the classifier is trained against"
        )
        epsilon: float | None = option(
            None, "their length, for pixels from 0 to 1; None: 2.1, fast gradient sign 0.25, text 5", minimum=0.0
        )
        xi: float = option(1e-3, "step at which the power method looks at the divergence", minimum=1e-12)
        iterations: int = option(1, "iterations of the power method", minimum=1)
        weight: float = option(1.0, "weight of the loss under perturbation", minimum=0.0)
        entropy_weight: float = option(0.0, "weight of the conditional entropy; 1: VAT+EntMin", minimum=0.0)
        lr: float = option(2e-3, "Adam's learning rate at the start", minimum=0.0)
        lr_decay: float = option(0.9, "the learning rate is multiplied by this", minimum=0.0, maximum=1.0)
        lr_decay_every: int = option(500, "every so many steps", minimum=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.input == "image" and self.network == "conv" and self.image_size < 12:
                raise ValueError(f"image_size takes at least 12 for network='conv', got {self.image_size}")

    def __init__(self, config: VAT.Config) -> None:
        super().__init__(config)
        c = config
        self.needs, self.conditions = (c.input, "label"), (c.input,)
        self.embed = None
        if c.input == "text":
            self.embed = NormalizedEmbedding(c.vocabulary, c.embedding)
            self.classifier: nn.Module = TextClassifier(c.embedding, c.width, c.kernel, c.num_classes)
        elif c.network == "conv":
            self.classifier = ConvClassifier(c.channels, c.width, c.num_classes)
        else:
            self.classifier = MLPClassifier(c.image_size, c.channels, c.hidden, c.num_classes)

    def phases(self) -> list[Phase]:
        adam = partial(Adam, lr=self.config.lr)
        return [Phase("classifier", self.parameters(), adam, self.loss, schedule=self.schedule)]

    def schedule(self, step: int) -> dict[str, float]:
        c = self.config
        return {"lr": c.lr * c.lr_decay ** (step // c.lr_decay_every)}

    def loss(self, batch: Batch, step: int) -> Losses:
        with torch.autocast(self.device.type, enabled=False):  # xi is far below bfloat16's precision
            x = self.represent(batch)
            class_logits = self.classifier(x)
            terms = {"supervised": losses.labelled_cross_entropy(class_logits, batch.label)}
            if self.config.regularizer != "none":
                under = self.loss_under_perturbation(x, class_logits, batch.label)
                terms[self.config.regularizer] = self.config.weight * under
            if self.config.entropy_weight:
                terms["entropy"] = self.config.entropy_weight * losses.conditional_entropy(class_logits)
        return terms

    def loss_under_perturbation(
        self, x: torch.Tensor, class_logits: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        c = self.config
        if c.regularizer == "virtual_adversarial":
            return losses.virtual_adversarial_loss(
                self.classifier, x, self.epsilon, c.xi, c.iterations, class_logits=class_logits
            )
        if c.input == "image":
            perturbed = losses.fast_gradient_sign(self.classifier, x, labels, self.epsilon)
        else:
            perturbed = x + losses.fast_gradient(self.classifier, x, labels, self.epsilon)
        with kept_statistics(self.classifier):
            return losses.labelled_cross_entropy(self.classifier(perturbed), labels)

    @property
    def epsilon(self) -> float:
        """The length of a perturbation of what the classifier takes: images in [-1, 1], or embedded tokens."""
        c = self.config
        if c.input == "text":
            return TEXT_EPSILON if c.epsilon is None else c.epsilon
        return 2 * (EPSILON[c.regularizer] if c.epsilon is None else c.epsilon)

    def represent(self, batch: Batch) -> torch.Tensor:
        """What is perturbed and classified: images as they are, tokens as embedded."""
        if self.embed is None:
            return self.real(batch)
        if batch.text is None or batch.text.dim() != 2 or batch.text.is_floating_point():
            got = None if batch.text is None else f"{tuple(batch.text.shape)} {batch.text.dtype}"
            raise ValueError(f"batch.text takes tokens (N, T) int64, got {got}")
        return self.embed(batch.text)

    def predict(self, batch: Batch) -> torch.Tensor:
        """Class logits (N, num_classes); in eval mode each sample's alone."""
        return self.classifier(self.represent(batch))
