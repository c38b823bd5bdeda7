"""KID: the kernel distance of two sets of features, unbiased whatever their number."""

from __future__ import annotations

import torch

__all__ = ["kernel_distance", "squared_mmd"]

DEGREE = 3


def squared_mmd(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (x . y / D + 1)^3.

    mean over i != j of k(x_i, x_j) + the same of y - 2 mean over i, j of k(x_i, y_j), in float64. Unbiased, it may fall
    below 0. Source: Gretton et al., JMLR 2012, lemma 6; kernel of Bińkowski et al., arXiv 1801.01401.

    Args:
        real, fake: features (N, D) and (M, D), N and M at least 2.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"a kernel distance takes at least 2 images on either side, got {len(real)} and {len(fake)}")
    real, fake = (features.detach().to("cpu", torch.float64) for features in (real, fake))

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1).pow_(DEGREE)

    def within(x: torch.Tensor) -> torch.Tensor:
        values = kernel(x, x)
        return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))

    return (within(real) + within(fake) - 2 * kernel(real, fake).mean()).item()


def kernel_distance(
    real: torch.Tensor, fake: torch.Tensor, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Kernel Inception Distance (Bińkowski et al. 2018): mean and standard deviation of ``squared_mmd`` over subsets.

    Args:
        real, fake: features (N, D) and (M, D).
        subsets: how many pairs of subsets are drawn, each without repetition.
        subset_size: of each; None: 1000, or half of the smaller set where that is less, so that subsets differ. The
            mean does not depend on it, the standard deviation does.
        seed: of the draw; torch's generators are left alone.
    """
    smaller = min(len(real), len(fake))
    size = min(1000, smaller // 2) if subset_size is None else subset_size
    if size < 2 or size > smaller:
        least = 4 if subset_size is None else max(2, size)
        raise ValueError(
            f"a kernel distance takes at least {least} images on either side, got {len(real)} and {len(fake)}"
        )
    if subsets < 1:
        raise ValueError(f"subsets takes a positive number, got {subsets}")
    generator = torch.Generator().manual_seed(seed)

    def draw(features: torch.Tensor) -> torch.Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size]]

    values = torch.tensor([squared_mmd(draw(real), draw(fake)) for _ in range(subsets)], dtype=torch.float64)
    return values.mean().item(), values.std(correction=0).item()
