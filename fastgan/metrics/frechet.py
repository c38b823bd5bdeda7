"""Fréchet distance of two Gaussians, and the moments of features that come in batches."""

from __future__ import annotations

import torch

__all__ = ["Moments", "frechet_distance", "symmetric_root"]


def frechet_distance(
    mean1: torch.Tensor,
    cov1: torch.Tensor,
    mean2: torch.Tensor,
    cov2: torch.Tensor,
    *,
    root1: torch.Tensor | None = None,
) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    (C1 C2)^(1/2) has the trace of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: two eigendecompositions in float64,
    exact for singular covariances too, nothing complex. Source: Dowson and Landau 1982; Heusel et al., arXiv
    1706.08500.

    Args:
        mean1, mean2: (D,).
        cov1, cov2: (D, D), symmetric positive semi-definite.
        root1: ``symmetric_root(cov1)``, from a caller who compares many with the same first Gaussian.

    Returns:
        A number >= 0; nan where an argument is not finite.
    """
    dim = len(mean1)
    for name, value, shape in (("mean2", mean2, (dim,)), ("cov1", cov1, (dim, dim)), ("cov2", cov2, (dim, dim))):
        if tuple(value.shape) != shape:
            raise ValueError(
                f"{name} takes shape {shape} beside mean1 of {tuple(mean1.shape)}, got {tuple(value.shape)}"
            )
    mean1, cov1, mean2, cov2 = (t.detach().to("cpu", torch.float64) for t in (mean1, cov1, mean2, cov2))
    if not all(t.isfinite().all() for t in (mean1, cov1, mean2, cov2)):
        return float("nan")
    root1 = symmetric_root(cov1) if root1 is None else root1
    product = root1 @ cov2 @ root1
    trace_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_root
    return max(distance.item(), 0.0)  # rounding may leave -1e-12 for equal Gaussians


def symmetric_root(cov: torch.Tensor) -> torch.Tensor:
    """The symmetric square root (D, D) float64 of a symmetric positive semi-definite matrix (D, D)."""
    values, vectors = torch.linalg.eigh(cov.to("cpu", torch.float64))
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class Moments:
    """Mean and covariance of features that come in batches, in float64; nothing but the two is kept.

    Each batch is centred about its own mean before it is merged (Chan, Golub and LeVeque 1979), so that neither a large
    mean nor the order of many batches costs digits: any split gives the same numbers to rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: torch.Tensor | None = None  # (D,)
        self._scatter: torch.Tensor | None = None  # (D, D): sum of (x - mean) (x - mean)^T

    def update(self, features: torch.Tensor) -> None:
        """Add features (N, D); an empty batch changes nothing."""
        if features.ndim != 2:
            raise ValueError(f"features takes shape (N, D), got {tuple(features.shape)}")
        if not len(features):
            return
        features = features.detach().to("cpu", torch.float64)
        mean = features.mean(0)
        centred = features - mean
        scatter = centred.T @ centred
        if self.mean is None:
            self.count, self.mean, self._scatter = len(features), mean, scatter
            return
        total = self.count + len(features)
        shift = mean - self.mean
        self._scatter += scatter + torch.outer(shift, shift) * (self.count * len(features) / total)
        self.mean += shift * (len(features) / total)
        self.count = total

    @property
    def covariance(self) -> torch.Tensor:
        """Unbiased, (D, D)."""
        if self.count < 2:
            raise ValueError(f"a covariance takes at least 2 images, got {self.count}")
        return self._scatter / (self.count - 1)
