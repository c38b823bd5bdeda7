"""Judging GANs that make points in the plane: mode coverage, and pictures of samples over data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fastgan.metrics import ModeCoverage, mixture_coverage
from fastgan.training.grid import make_scatter, save_grid
from fastgan.training.trainer import Trainer

__all__ = ["coverage", "save_panels"]

SAMPLES = 2500  # that a mode has to be hit by one of
PANEL = 480  # height and width of a panel in pixels


def coverage(run: Trainer) -> tuple[ModeCoverage, torch.Tensor]:
    """What ``SAMPLES`` points of the averaged generator cover of the mixture that it was trained on; its panel."""
    mixture = run.batches.dataset
    with run.averaged() as architecture:
        points = architecture.sample(SAMPLES).cpu()
    data = mixture.batch(range(min(SAMPLES, len(mixture))))["image"]
    return mixture_coverage(points.flatten(1), mixture.centres, mixture.std), make_scatter(points, data, PANEL)


def save_panels(panels: Sequence[torch.Tensor], file: Path) -> None:
    """Pictures (H, W, 3) uint8 side by side as one PNG."""
    images = torch.stack(list(panels)).permute(0, 3, 1, 2) / 127.5 - 1
    save_grid(images, file, columns=len(panels))
