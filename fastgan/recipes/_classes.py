"""Samples drawn by class: is each of its class, and are those of one class as varied as real images of it?

Consistency is the share of samples for which an independent classifier (_judge.py) names the class that was asked for.
A generator with one good picture a class would have all of it; hence the diversity of Odena et al. 2017 (section 4.2):
the mean MS-SSIM of random pairs of one class, higher where they are more alike, against that of as many real images of
the training split. 28 and 32 px hold two of its five scales (fastgan.metrics.ms_ssim), so that values compare with
their own real images' alone, not with the paper's. Samples are the averaged generator's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from fastgan.data import Batch, ImageDataset, normalize
from fastgan.metrics.collapse import pairwise_ms_ssim
from fastgan.recipes import AtLeast
from fastgan.recipes._judge import classifier
from fastgan.training import rng
from fastgan.training.grid import save_grid

if TYPE_CHECKING:
    from fastgan.architectures.base import Architecture
    from fastgan.training.trainer import Trainer

__all__ = ["CONSISTENT", "EXCESS", "consistency", "diversity", "draw", "judge", "of_class", "real_images"]

EPOCHS = 6  # of the judge: after three it names 90.8% of Fashion-MNIST's test images rightly, hardly more than the bar
PER_CLASS = 200  # samples, and real images they are compared with
CONSISTENT = AtLeast("label consistency", 0.9)
EXCESS = "excess of MS-SSIM over real images"
ROWS, ZOOM = 8, 2  # of the picture


def judge(trainer: Trainer, out: Path) -> dict[str, float]:
    """Consistency and diversity of what was trained, and the judge's accuracy; draws ``out/picture.png``."""
    data = trainer.batches.dataset
    net, accuracy = classifier(data.name, out, image_size=data.image_size, epochs=EPOCHS)
    with trainer.averaged() as architecture, rng.isolated(trainer.seed, trainer.device):
        samples = [of_class(architecture, label) for label in range(net.num_classes)]
    images = [real_images(data, label) for label in range(net.num_classes)]
    draw(samples, images, out / "picture.png")
    logits = torch.stack([net.logits(drawn) for drawn in samples])
    return {
        **consistency(logits),
        "judge's accuracy on test images": accuracy,
        **diversity(samples, images),
    }


@torch.no_grad()
def of_class(architecture: Architecture, label: int) -> torch.Tensor:
    """``PER_CLASS`` images of one class."""
    return architecture.generate(Batch(label=torch.full((PER_CLASS,), label)))


def real_images(data: ImageDataset, label: int) -> torch.Tensor:
    """At most ``PER_CLASS`` images of one class, the same at every call."""
    indices = (data.labels == label).nonzero().flatten()
    chosen = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[:PER_CLASS]
    return normalize(data.batch(indices[chosen])["image"])


def consistency(logits: torch.Tensor) -> dict[str, float]:
    """``logits`` (K, N, K) of N samples of each class: how many are of theirs, over all classes and in the worst."""
    wanted = torch.arange(len(logits))[:, None]
    right = (logits.argmax(2) == wanted).double().mean(1)
    return {
        CONSISTENT.value: right.mean().item(),
        "label consistency, worst class": right.min().item(),
    }


def diversity(samples: list[torch.Tensor], images: list[torch.Tensor]) -> dict[str, float]:
    """Mean MS-SSIM of pairs of one class, of samples and of real images, each a tensor (N, C, H, W) a class."""
    generated, real = (torch.tensor([pairwise_ms_ssim(of) for of in sets]) for sets in (samples, images))
    excess = generated - real
    return {
        "MS-SSIM within a class": generated.mean().item(),
        "MS-SSIM within a class, real images": real.mean().item(),
        EXCESS: excess.mean().item(),
        f"{EXCESS}, worst class": excess.max().item(),
    }


def draw(samples: list[torch.Tensor], images: list[torch.Tensor], file: Path) -> None:
    """A column a class: one real image, a gap, samples."""
    columns = [
        torch.cat([real[:1], torch.full_like(real[:1], -1), drawn[:ROWS]]).clamp(-1, 1)
        for real, drawn in zip(images, samples, strict=True)
    ]
    rows = torch.stack(columns, dim=1).flatten(0, 1)
    save_grid(F.interpolate(rows, scale_factor=ZOOM), file, columns=len(columns))
