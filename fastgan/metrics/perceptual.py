"""Perceptual distance: how far apart two images are in the activations of a named network."""

from __future__ import annotations

import torch

from fastgan.metrics.features import FeatureNet

__all__ = ["PerceptualDistance"]

EPS = 1e-10


class PerceptualDistance:
    """Squared distance of activations that are scaled to unit length at every place, averaged over places, summed over
    the net's stages: LPIPS (Zhang et al., arXiv 1801.03924) without its learned weights, and so not LPIPS. ``name``,
    ``perceptual[NET]``, belongs to every number: distances of two nets do not compare.

    ``distance(a, b)`` takes images (N, C, H, W) in [-1, 1] and returns (N,), at least 0, differentiable in the images
    where the net's ``maps`` are.

    Args:
        net: what ``load_features`` returned.
    """

    def __init__(self, net: FeatureNet) -> None:
        self.net = net
        self.name = f"perceptual[{net.name}]"

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.shape != b.shape or a.ndim != 4:
            raise ValueError(
                f"{self.name} takes two batches of images of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        total = a.new_zeros(len(a))
        for left, right in zip(self.net.maps(a), self.net.maps(b), strict=True):
            total = total + (_unit(left) - _unit(right)).square().sum(1).mean((1, 2))
        return total


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Each place's channels over their length; zero stays zero, with a finite gradient."""
    return x / (x.square().sum(1, keepdim=True) + EPS).sqrt()
