"""The collapse detector: are samples more alike than real images are?

Three measures of a set, each against the same of as many real images: pairwise MS-SSIM (the AC-GAN paper's measure of
diversity, arXiv 1610.09585), the distance to the nearest other sample, and how many cells of a clustering of real
images are hit (after Richardson and Weiss, arXiv 1805.12462).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fastgan.data.dataset import normalize
from fastgan.metrics.features import FeatureNet, load_features
from fastgan.metrics.manifold import nearest_distances, squared_distances
from fastgan.metrics.measure import real_subset
from fastgan.metrics.similarity import ms_ssim, ssim_scales

__all__ = ["CollapseDetector", "CollapseReport"]

LIMIT = 0.5  # of real images' diversity: less is called a collapse
CELLS = 20
PAIRS = 256
DATA_RANGE = 2.0  # of images in [-1, 1]


@dataclass(frozen=True)
class Diversity:
    """How unlike one another the images of one set are."""

    ms_ssim: float | None  # mean over random pairs; None for images under 11 pixels
    nearest: float  # mean feature distance to the nearest other image
    modes: int  # cells of the real images' clustering that are hit
    placed: float  # share of the images that lie in those cells, as near to the centre as real images do


@dataclass(frozen=True)
class CollapseReport:
    """The verdict, and what it rests on."""

    samples: Diversity
    real: Diversity
    features: str  # name of the feature net
    reasons: tuple[str, ...]  # one a measure that found a collapse

    @property
    def collapsed(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        return "collapsed: " + "; ".join(self.reasons) if self.collapsed else "no collapse"

    def values(self) -> dict[str, float]:
        """What belongs into a record, by name; MS-SSIM has no feature net."""
        named = {f"nearest[{self.features}]": self.samples.nearest, f"modes[{self.features}]": self.samples.modes}
        return named if self.samples.ms_ssim is None else {"ms_ssim": self.samples.ms_ssim, **named}

    def as_dict(self) -> dict[str, Any]:
        return {"collapsed": self.collapsed, **asdict(self)}


class CollapseDetector:
    """``detector(generate)`` draws ``n`` samples, or takes them as a tensor, and compares their diversity with real
    images'. Collapsed is what has less than half of it by any measure: half of 1 - MS-SSIM, half of the distance to the
    nearest neighbour, or half of the cells. Cells count only where half of the samples lie in them at all: noise hits
    few, but it has not collapsed.

    The feature net of the random convolutions is enough here: samples that are the same are the same in any net.

    Args:
        dataset: as ``Measure`` takes it.
        n: samples, and real images, 40 or more: two for every cell.
        features: what ``load_features`` takes.
    """

    def __init__(self, dataset: Any, n: int = 256, features: str | os.PathLike | FeatureNet = "random_conv_v1") -> None:
        if min(n, len(dataset)) < 2 * CELLS:
            raise ValueError(
                f"the collapse detector takes at least {2 * CELLS} samples and real images, got n={n} and a data set "
                f"of {len(dataset)}"
            )
        self.n = min(n, len(dataset))
        images = normalize(dataset.batch(real_subset(dataset, self.n))["image"])
        self.net = load_features(features, images.shape[1])
        embedded = self._embed(images)
        self._centres = cluster(embedded, CELLS)
        self._reach = squared_distances(embedded, self._centres).min(1).values.max()  # of real images, squared
        self.real = self._diversity(images, embedded)

    def __call__(self, generate: Callable[[int], torch.Tensor] | torch.Tensor) -> CollapseReport:
        images = (generate if isinstance(generate, torch.Tensor) else generate(self.n)).detach()
        if len(images) < 2 or not images.isfinite().all():
            raise ValueError("the collapse detector takes at least 2 images, all of them finite")
        samples = self._diversity(images, self._embed(images))
        return CollapseReport(samples, self.real, self.net.name, tuple(self._reasons(samples)))

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.net.to(images.device)(images).to("cpu", torch.float64)

    def _diversity(self, images: torch.Tensor, embedded: torch.Tensor) -> Diversity:
        distance, cell = squared_distances(embedded, self._centres).min(1)
        return Diversity(
            ms_ssim=pairwise_ms_ssim(images),
            nearest=nearest_distances(embedded, 1).sqrt().mean().item(),
            modes=len(cell.unique()),
            placed=(distance <= self._reach).double().mean().item(),
        )

    def _reasons(self, samples: Diversity) -> list[str]:
        real, reasons = self.real, []
        if real.ms_ssim is not None and 1 - samples.ms_ssim < LIMIT * (1 - real.ms_ssim):
            reasons.append(f"MS-SSIM between samples is {samples.ms_ssim:.2f}, between real images {real.ms_ssim:.2f}")
        if samples.nearest < LIMIT * real.nearest:
            share = samples.nearest / real.nearest
            reasons.append(f"a sample's nearest neighbour is at {share:.0%} of the distance between real images")
        if samples.modes < LIMIT * real.modes and samples.placed >= LIMIT:
            reasons.append(f"samples hit {samples.modes} of the {real.modes} clusters of real images")
        return reasons


def pairwise_ms_ssim(images: torch.Tensor) -> float | None:
    """Mean MS-SSIM of at most 256 random pairs of different images, in as many scales as fit; None where none does."""
    scales = ssim_scales(min(images.shape[2:]))
    if not scales:
        return None
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(len(images), (PAIRS,), generator=generator)
    second = (first + torch.randint(1, len(images), (PAIRS,), generator=generator)) % len(images)
    a, b = (images[index.to(images.device)].clamp(-1, 1) for index in (first, second))
    return ms_ssim(a, b, data_range=DATA_RANGE, scales=scales).mean().item()


def cluster(points: torch.Tensor, count: int, rounds: int = 10) -> torch.Tensor:
    """Centres (count, D) of points (N, D) by Lloyd's k-means from random points; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = squared_distances(points, centres).argmin(1)
        for cell in nearest.unique():
            centres[cell] = points[nearest == cell].mean(0)
    return centres
