"""Densities whose truth is known, as "images" of one pixel: a Gaussian on the line, mixtures of them in the plane.

``gaussian``: the data of the first GAN paper's figure 1.
``gaussians_8``, ``gaussians_25``: the ring and the grid on which mode collapse is counted, as Gulrajani et al. draw
them (arXiv 1704.00028, figure 1; gan_toy.py of their code): 8 centres on a circle of radius 2 with standard deviation
.02, 25 centres -4, -2, .. 4 in both directions with .05, each divided by the standard deviation of its centres along an
axis (sqrt 2 and 2 sqrt 2), so that coordinates have variance 1. Srivastava et al. (VEEGAN, arXiv 1705.07761) have the
same two up to that scale: .01 on a circle of radius 1, .05 at a spacing of 2.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fastgan.data.dataset import ImageDataset

__all__ = ["Gaussian", "GaussianMixture", "grid_of_gaussians", "ring_of_gaussians"]


class Points(ImageDataset):
    """Points (N, D) float32, each an image (D, 1, 1); bytes would quantise the density. Unlike images they are not
    confined to [-1, 1]."""

    def __init__(
        self,
        name: str,
        points: torch.Tensor,
        *,
        labels: torch.Tensor | None = None,
        classes: tuple[str, ...] | None = None,
        origin: str,
    ) -> None:
        count, dimensions = points.shape
        super().__init__(
            name, count, image_size=1, channels=dimensions, labels=labels, classes=classes, origin=origin
        )  # fmt: skip
        self._points = points.view(count, dimensions, 1, 1)

    def _images(self, indices: np.ndarray) -> torch.Tensor:
        return self._points[torch.from_numpy(indices)]


class Gaussian(Points):
    """Numbers drawn from N(mean, std^2), each an image (1, 1, 1) float32.

    Args:
        size: how many numbers.
        mean, std: of the density.
        seed: of the draw.
    """

    def __init__(self, size: int = 16384, *, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> None:
        if not std > 0:
            raise ValueError(f"std takes a positive number, got {std!r}")
        generator = torch.Generator().manual_seed(seed)
        points = torch.randn(size, generator=generator) * std + mean
        origin = f"normal density, mean {mean:g}, std {std:g}, seed {seed}"
        super().__init__("gaussian", points[:, None], origin=origin)
        self.mean, self.std = mean, std

    def density(self, x: torch.Tensor) -> torch.Tensor:
        """p_data at ``x``, any shape."""
        return torch.distributions.Normal(self.mean, self.std).log_prob(x).exp()


class GaussianMixture(Points):
    """Points of equally likely round Gaussians, each an image (D, 1, 1) float32; ``label`` is the mode.

    Labels go round the modes, so that their shares are equal but for the last round. ``centres`` and ``std`` are what
    ``fastgan.metrics.mixture_coverage`` takes.

    Args:
        name: short name.
        centres: (K, D) of the modes.
        std: of every mode, in every direction.
        size: how many points.
        seed: of the draw.
    """

    def __init__(self, name: str, centres: torch.Tensor, std: float, size: int = 100_000, *, seed: int = 0) -> None:
        if centres.ndim != 2 or not std > 0:
            raise ValueError(f"centres takes (K, D) and std a positive number, got {tuple(centres.shape)} and {std!r}")
        self.centres, self.std = centres.to(torch.float32), std
        modes, dimensions = centres.shape
        labels = torch.arange(size) % modes
        noise = torch.randn(size, dimensions, generator=torch.Generator().manual_seed(seed))
        super().__init__(
            name,
            self.centres[labels] + std * noise,
            labels=labels,
            classes=tuple(f"mode {mode}" for mode in range(modes)),
            origin=f"std {std:.3g}, seed {seed}",
        )


def ring_of_gaussians(size: int = 100_000, *, seed: int = 0) -> GaussianMixture:
    """``gaussians_8``: on a circle of radius sqrt 2 with standard deviation .02 / sqrt 2; mode 0 lies on the right."""
    angles = torch.arange(8) * (2 * math.pi / 8)
    centres = torch.stack([angles.cos(), angles.sin()], 1) * 2
    return GaussianMixture("gaussians_8", centres / math.sqrt(2), 0.02 / math.sqrt(2), size, seed=seed)


def grid_of_gaussians(size: int = 100_000, *, seed: int = 0) -> GaussianMixture:
    """``gaussians_25``: on 5 x 5 places from -sqrt 2 to sqrt 2 with standard deviation .05 / (2 sqrt 2)."""
    places = torch.arange(-4, 5, 2, dtype=torch.float32)
    centres = torch.cartesian_prod(places, places)
    return GaussianMixture("gaussians_25", centres / math.sqrt(8), 0.05 / math.sqrt(8), size, seed=seed)
