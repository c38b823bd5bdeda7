"""Fréchet distance between real and generated images in a named feature space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized

import torch

from fastgan.data.dataset import normalize
from fastgan.metrics.features import FEATURE_NETS

__all__ = ["FrechetDistance", "frechet_distance", "gaussian_statistics", "symmetric_root"]

SUBSET_SEED = 0  # of the real images that a distance is measured against


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


def gaussian_statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and unbiased covariance (D, D), float64, of features (N, D) with N >= 2."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features takes (N, D) with N >= 2, got shape {tuple(features.shape)}")
    features = features.to("cpu", torch.float64)
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


class FrechetDistance:
    """Fréchet distance of generated images to a data set; lower is better.

    ``metric(generate)`` calls ``generate(k)`` for k images (k, C, H, W) in [-1, 1] until it has ``n`` of them;
    ``metric(images)`` takes them as one tensor. The real side is a fixed subset, measured at the first call and kept.
    Distances of different feature nets, image sizes or ``n`` do not compare (few images bias it upwards): ``name`` and
    ``n`` belong to every number.

    Args:
        dataset: an ``ImageDataset``, or anything with ``len``, ``batch(indices) -> {"image": ...}`` and a ``name``.
        n: how many real and how many generated images; at most as many real ones as there are.
        feature_net: a name in ``FEATURE_NETS``.
        batch_size: images in one forward pass.

    Raises:
        ValueError: unknown feature net, fewer than two images on either side, or images of another shape.
    """

    lower_is_better = True

    def __init__(
        self, dataset: Sized, n: int = 2048, feature_net: str = "random_conv_v1", batch_size: int = 256
    ) -> None:
        if feature_net not in FEATURE_NETS:
            raise ValueError(f"feature_net takes one of {sorted(FEATURE_NETS)}, got {feature_net!r}")
        if n < 2 or len(dataset) < 2:
            raise ValueError(
                f"a Fréchet distance takes at least 2 images on either side, got n={n} and a data set of {len(dataset)}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size takes a positive number, got {batch_size}")
        self.dataset, self.n, self.batch_size = dataset, n, batch_size
        self.name = f"frechet_{feature_net}"
        self._build = FEATURE_NETS[feature_net]
        self._net: torch.nn.Module | None = None
        self._real: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # mean, covariance, its root
        self._shape: tuple[int, ...] | None = None

    def __call__(self, generate: Callable[[int], torch.Tensor] | torch.Tensor) -> float:
        if isinstance(generate, torch.Tensor):
            batches = iter(generate.split(self.batch_size))
        else:
            counts = [min(self.batch_size, self.n - start) for start in range(0, self.n, self.batch_size)]
            batches = (generate(count) for count in counts)
        first = next(batches, None)
        if first is None or (isinstance(generate, torch.Tensor) and len(generate) < 2):
            raise ValueError("images takes at least 2 images")
        self._prepare(first.device)

        def generated() -> Iterable[torch.Tensor]:
            yield first
            yield from batches

        real_mean, real_cov, real_root = self._real
        mean, cov = gaussian_statistics(self._features(generated()))
        return frechet_distance(real_mean, real_cov, mean, cov, root1=real_root)

    def _prepare(self, device: torch.device) -> None:
        if self._real is None:
            subset = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(SUBSET_SEED))[: self.n]
            real = (
                normalize(self.dataset.batch(part)["image"]) for part in subset.sort().values.split(self.batch_size)
            )
            self._shape = tuple(self.dataset[0]["image"].shape)
            self._net = self._build(self._shape[0]).to(device)
            mean, cov = gaussian_statistics(self._features(images.to(device) for images in real))
            self._real = mean, cov, symmetric_root(cov)
        self._net.to(device)

    def _features(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        parts = []
        for images in batches:
            if not images.is_floating_point():
                raise TypeError(
                    f"images takes floating values in [-1, 1], got {images.dtype}: see fastgan.data.normalize"
                )
            if tuple(images.shape[1:]) != self._shape:
                raise ValueError(
                    f"images takes shape (N, {', '.join(map(str, self._shape))}) like the data set "
                    f"{getattr(self.dataset, 'name', '')!r}, got {tuple(images.shape)}"
                )
            parts.append(self._net(images.detach()).cpu())
        return torch.cat(parts)
