"""Mode coverage: of the known modes of a mixture, or the classes of a classifier, how many do the samples hit?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["ModeCoverage", "class_coverage", "mixture_coverage"]


@dataclass(frozen=True)
class ModeCoverage:
    """What a set of samples covers."""

    modes: int  # hit by at least one good sample
    total: int  # that there are
    high_quality: float  # share of samples that are good
    kl: float  # KL(samples || data) of the histograms over modes, in nats: 0 for equal shares, finite where modes miss

    def __str__(self) -> str:
        good = f"{100 * self.high_quality:.1f}% of the samples of high quality"
        return f"{self.modes} of {self.total} modes, {good}, KL {self.kl:.3g}"


def mixture_coverage(
    points: torch.Tensor,
    centres: torch.Tensor,
    std: float,
    *,
    weights: torch.Tensor | None = None,
    within: float = 3.0,
) -> ModeCoverage:
    """Coverage of a mixture of equal round Gaussians, as for the ring of 8 and the grid of 25.

    A point belongs to its nearest centre and is good within ``within`` standard deviations of it; a mode is hit by one
    good point. Source: Srivastava et al. (VEEGAN), arXiv 1705.07761, section 4.1; KL as Metz et al., arXiv 1611.02163.

    Args:
        points: (N, D).
        centres: (K, D).
        std: of every mode, in every direction.
        weights: (K,) shares of the modes in the data; None: equal.
        within: radius of a good point, in ``std``.
    """
    if points.ndim != 2 or centres.ndim != 2 or points.shape[1] != centres.shape[1]:
        raise ValueError(
            f"points takes (N, D) and centres (K, D), got {tuple(points.shape)} and {tuple(centres.shape)}"
        )
    if not std > 0:
        raise ValueError(f"std takes a positive number, got {std!r}")
    points, centres = (t.detach().to("cpu", torch.float64) for t in (points, centres))
    distance, nearest = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return _coverage(nearest, distance <= within * std, len(centres), weights)


def class_coverage(
    logits: torch.Tensor, *, confidence: float = 0.0, weights: torch.Tensor | None = None
) -> ModeCoverage:
    """Coverage of a classifier's classes, as for Stacked MNIST.

    A sample belongs to its likeliest class and is good where that class has at least the probability ``confidence``.

    Args:
        logits: (N, classes).
        confidence: 0 to 1.
        weights: (classes,) shares of the classes in the data; None: equal.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits takes shape (N, classes), got {tuple(logits.shape)}")
    probability, label = logits.detach().to("cpu", torch.float64).softmax(1).max(1)
    return _coverage(label, probability >= confidence, logits.shape[1], weights)


def _coverage(mode: torch.Tensor, good: torch.Tensor, total: int, weights: torch.Tensor | None) -> ModeCoverage:
    if not len(mode):
        raise ValueError("mode coverage takes at least one sample")
    weights = torch.ones(total) if weights is None else weights
    if weights.shape != (total,) or not bool((weights > 0).all()):
        raise ValueError(f"weights takes {total} positive numbers, one a mode, got {weights.tolist()}")
    data = weights.to(torch.float64) / weights.sum()
    share = torch.bincount(mode, minlength=total).to(torch.float64) / len(mode)
    return ModeCoverage(
        modes=len(mode[good].unique()),
        total=total,
        high_quality=good.double().mean().item(),
        kl=(torch.special.xlogy(share, share) - share * data.log()).sum().item(),
    )
