"""Latent points by number, and the images that a generator makes of them."""

from __future__ import annotations

import torch

from fastgan.architectures.base import Architecture
from fastgan.data.batch import Batch
from fastgan.training import rng
from fastgan.training.options import name_of

__all__ = ["PAGE", "draw", "generate", "labels_for"]

PAGE = 64  # latents drawn at once: number k is the same however many are asked for


def draw(architecture: Architecture, count: int, seed: int) -> torch.Tensor:
    """The first ``count`` latents (count, z_dim) of ``seed``; torch's global generators are left as they were.

    Raises:
        NotImplementedError: the model takes no noise.
    """
    pages = []
    for page in range(-(-count // PAGE)):
        with rng.isolated(rng.mix(seed, page), architecture.device):
            pages.append(architecture.latent(PAGE))
    return torch.cat(pages)[:count]


def labels_for(architecture: Architecture, label: int | None, count: int) -> torch.Tensor | None:
    """Labels (count,) for ``generate``: all of them ``label``, or with None the classes in turn; None where the model
    takes no labels.

    Raises:
        ValueError: a label for a model without, a label out of range, or a model of other conditions.
    """
    name, conditions = name_of(architecture), tuple(architecture.conditions)
    if not conditions:
        if label is not None:
            raise ValueError(f"{name} makes images from noise alone: leave the label out")
        return None
    classes = getattr(architecture.config, "num_classes", None)
    if conditions != ("label",) or classes is None:
        raise ValueError(f"{name} makes images of {' and '.join(conditions)}: this takes models of noise, or of noise "
                         "and class labels")  # fmt: skip
    if label is None:
        return torch.arange(count, device=architecture.device) % classes
    if not 0 <= label < classes:
        raise ValueError(f"label is {label}; {name} has the classes 0 to {classes - 1}")
    return torch.full((count,), label, device=architecture.device)


@torch.no_grad()
def generate(
    architecture: Architecture, latent: torch.Tensor, labels: torch.Tensor | None = None, batch_size: int = 64
) -> torch.Tensor:
    """Images (N, C, H, W) on the CPU of latents (N, z_dim), and labels (N,) where the model has them; in eval mode.

    Raises:
        ValueError: the model makes data points, not images.
    """
    if architecture.config.image_size == 1:
        raise ValueError(f"this {name_of(architecture)} makes data points (image_size=1): there are no images to draw")
    was_training = architecture.training
    architecture.eval()
    try:
        images = []
        for rows in torch.arange(len(latent), device=latent.device).split(batch_size):
            batch = Batch(latent=latent[rows], label=None if labels is None else labels[rows])
            images.append(architecture.generate(batch.to(architecture.device)).cpu())
        return torch.cat(images)
    finally:
        architecture.train(was_training)
