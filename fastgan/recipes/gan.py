"""GAN on images: Goodfellow et al. 2014, the multi-layer perceptrons of the MNIST experiment, on Fashion-MNIST.

The paper's figure is a log-likelihood by Gaussian Parzen windows (225 +- 2 on MNIST, as remembered), which says little
of samples (Theis et al. 2016, "A note on the evaluation of generative models") and does not compare across data: here
the feature distance at the end is at most half of that at a tenth of the training (fastgan/recipes/_distance.py), and a
classifier trained on real images alone finds at least 9 of the 10 classes among the samples, each with at least a tenth
of its share. Networks and optimiser are the paper's; its momentum rises within this run instead of 250 epochs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastgan.metrics import class_coverage
from fastgan.recipes import AtLeast, Recipe
from fastgan.recipes._distance import HALVED, N, train_and_measure
from fastgan.recipes._judge import classifier
from fastgan.training import rng

if TYPE_CHECKING:
    from fastgan.training.trainer import Trainer


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train, measure, and let the judge look; about two minutes on one CPU core."""
    trainer, measured = train_and_measure("gan", "fashion_mnist", out, seed)
    return measured | classes(trainer, out)


def classes(trainer: Trainer, out: Path) -> dict[str, float]:
    """What the judge sees in N samples of the averaged generator."""
    data = trainer.batches.dataset
    judge, accuracy = classifier(data.name, out, image_size=data.image_size)
    with trainer.averaged() as architecture, rng.isolated(trainer.seed, trainer.device):
        logits = judge.logits(architecture.sample(N))
    return {
        "classes among the samples": float(present(logits)),
        "KL of the classes' shares from the data's": class_coverage(logits).kl,
        "judge's accuracy on test images": accuracy,
    }


def present(logits: torch.Tensor) -> int:
    """How many of the K classes are the likeliest one of at least 1 / (10 K) of the samples; logits (N, K)."""
    samples, count = logits.shape
    found = logits.argmax(1).bincount(minlength=count)
    return int((found * 10 * count >= samples).sum())


RECIPE = Recipe(
    system="GAN",
    data="fashion_mnist, 28 px",
    paper="Parzen log-likelihood of MNIST, 225 +- 2 as remembered: does not compare",
    checks=(HALVED, AtLeast("classes among the samples", 9.0)),
    measure=measure,
)
