"""Precision, recall, density and coverage: fidelity and diversity apart, from balls around each other's samples.

Balls reach from every sample to its k-th nearest neighbour in its own set, and are closed: a sample on the edge is in.
Distances are Euclidean, in float64.
"""

from __future__ import annotations

import torch

__all__ = ["density_coverage", "nearest_distances", "precision_recall"]

ROWS = 1024  # of a distance matrix held at a time


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N, M) from (N, D) and (M, D) float64."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_(min=0)


def nearest_distances(features: torch.Tensor, k: int) -> torch.Tensor:
    """Squared distance (N,) of every row to its k-th nearest other row, float64."""
    if k < 1 or len(features) <= k:
        raise ValueError(f"the {k}-th nearest neighbour takes more than {max(k, 1)} images a side, got {len(features)}")
    features = features.detach().to("cpu", torch.float64)
    found = []
    for start in range(0, len(features), ROWS):
        distances = squared_distances(features[start : start + ROWS], features)
        own = torch.arange(len(distances))
        distances[own, start + own] = torch.inf  # not itself, however rounding places its copies
        found.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(found)


def precision_recall(real: torch.Tensor, fake: torch.Tensor, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991, equations 1 and 2).

    Precision: the share of fakes inside any real sample's ball; recall: of reals inside any fake's.

    Args:
        real, fake: features (N, D) and (M, D), more than k of each.
        k: of the neighbour that a ball reaches; 3 in the paper.
    """
    reach_real, reach_fake = nearest_distances(real, k), nearest_distances(fake, k)
    real, fake = (features.detach().to("cpu", torch.float64) for features in (real, fake))
    covered_fake = torch.zeros(len(fake), dtype=torch.bool)
    covered_real = []
    for start in range(0, len(real), ROWS):
        distances = squared_distances(real[start : start + ROWS], fake)
        covered_fake |= (distances <= reach_real[start : start + ROWS, None]).any(0)
        covered_real.append((distances <= reach_fake).any(1))
    return covered_fake.double().mean().item(), torch.cat(covered_real).double().mean().item()


def density_coverage(real: torch.Tensor, fake: torch.Tensor, *, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al., arXiv 2002.09797, equations 3 and 4).

    Density: how many real balls a fake lies in, divided by k: 1 on average for perfect samples, more for samples that
    keep to the middle. Coverage: the share of real balls that hold a fake.

    Args:
        real, fake: features (N, D) and (M, D); more than k reals.
        k: of the neighbour that a ball reaches; 5 in the paper.
    """
    if not len(fake):
        raise ValueError("density and coverage take at least one generated image")
    reach = nearest_distances(real, k)
    real, fake = (features.detach().to("cpu", torch.float64) for features in (real, fake))
    hits, covered = 0, []
    for start in range(0, len(real), ROWS):
        inside = squared_distances(real[start : start + ROWS], fake) <= reach[start : start + ROWS, None]
        hits += inside.sum().item()
        covered.append(inside.any(1))
    return hits / (k * len(fake)), torch.cat(covered).double().mean().item()
