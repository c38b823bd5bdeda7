"""``Measure``: any of the feature metrics of generated images against a data set, in one pass over the images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastgan._words import did_you_mean
from fastgan.data.dataset import normalize
from fastgan.metrics.features import FeatureNet, load_features
from fastgan.metrics.frechet import Moments, frechet_distance, symmetric_root
from fastgan.metrics.inception_score import inception_score
from fastgan.metrics.kernel import kernel_distance
from fastgan.metrics.manifold import density_coverage, precision_recall

__all__ = ["METRICS", "Measure", "Metric", "expand"]

SUBSET_SEED = 0  # of the real images that are measured against
GROUPS = {"prdc": ("precision", "recall", "density", "coverage")}


@dataclass(frozen=True)
class Metric:
    """What a name stands for."""

    family: str  # metrics of one family are computed together
    lower_is_better: bool
    about: str


METRICS = {
    "fid": Metric("fid", True, "Fréchet distance of Gaussians fitted to the features"),
    "kid": Metric("kid", True, "kernel distance, unbiased for any number of images"),
    "is": Metric("is", False, "Inception Score, where the net has classes"),
    "precision": Metric("pr", False, "share of samples that look real"),
    "recall": Metric("pr", False, "share of real images that the samples reach"),
    "density": Metric("dc", False, "as precision, counting how many real neighbourhoods a sample is in"),
    "coverage": Metric("dc", False, "share of real neighbourhoods that hold a sample"),
}


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names of metrics in order, "prdc" as its four; an unknown one raises ValueError with the nearest."""
    found: dict[str, None] = {}
    for name in names:
        if name not in METRICS and name not in GROUPS:
            hint = did_you_mean(name, [*METRICS, *GROUPS])
            raise ValueError(f"metrics takes any of {', '.join(METRICS)} and prdc, got {name!r}{hint}")
        found.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return tuple(found)


class _Side:
    """What is kept of one set of images: the moments, the features, the logits, as far as the metrics need them."""

    def __init__(self, families: set[str]) -> None:
        self.moments = Moments() if "fid" in families else None
        self._features: list[torch.Tensor] | None = [] if families & {"kid", "pr", "dc"} else None
        self._logits: list[torch.Tensor] | None = [] if "is" in families else None
        self.finite = True

    def update(self, net: FeatureNet, images: torch.Tensor) -> None:
        features = net(images)
        self.finite = self.finite and bool(features.isfinite().all())
        if self.moments is not None:
            self.moments.update(features)
        if self._features is not None:
            self._features.append(features.cpu())
        if self._logits is not None:
            with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
                self._logits.append(net.head(features).cpu())

    @property
    def features(self) -> torch.Tensor:
        return torch.cat(self._features)

    @property
    def logits(self) -> torch.Tensor:
        return torch.cat(self._logits)


class Measure:
    """Measures generated images against a data set.

    ``measure(generate)`` calls ``generate(k)`` for k images (k, C, H, W) in [-1, 1] until it has ``n`` of them;
    ``measure(images)`` takes them as one tensor. It returns a dict such as ``{"fid[random_conv_v1]": 12.3}``: the
    feature net is part of every name, because numbers of two nets do not compare; nor do those of two ``n`` (of FID
    above all, which few images bias upwards), image sizes or data sets. The real side is a fixed subset, measured once.
    Statistics are float64 and depend on how the images come in batches by rounding only.

    Args:
        dataset: an ``ImageDataset``, or anything with ``len``, ``batch(indices) -> {"image": ...}`` and a ``name``.
        metrics: of ``METRICS``, and "prdc" for four of them.
        n: how many generated and how many real images; at most as many real ones as there are.
        features: what ``load_features`` takes.
        batch_size: images in one forward pass.

    Raises:
        ValueError: an unknown metric or net, too few images for a metric, or images of another shape.
        ImportError, FileNotFoundError: the feature net cannot be had; the sentence says what is missing.
    """

    def __init__(
        self,
        dataset: Any,
        metrics: Sequence[str] = ("fid",),
        n: int = 2048,
        features: str | os.PathLike | FeatureNet = "random_conv_v1",
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size takes a positive number, got {batch_size}")
        self.dataset, self.n, self.batch_size = dataset, n, batch_size
        self.metrics = expand(metrics)
        self._families = {METRICS[name].family for name in self.metrics}
        self._shape = tuple(dataset[0]["image"].shape)
        self.net = load_features(features, self._shape[0])
        self._check_counts(min(n, len(dataset)))
        self._real: _Side | None = None
        self._real_root: torch.Tensor | None = None

    def label(self, metric: str) -> str:
        """The name that results bear: the metric's with the feature net's."""
        return f"{metric}[{self.net.name}]"

    def _check_counts(self, real: int) -> None:
        """Refuse what has no value for so few images; warn of a value that is there but depends on their number."""
        least = {"fid": 2, "kid": 4, "is": 10, "pr": 4, "dc": 6}
        for name in self.metrics:
            family = METRICS[name].family
            if family == "is" and self.net.num_classes is None:
                raise ValueError(f"the Inception Score needs a net with classes; {self.net.name} has none")
            have = self.n if family == "is" else min(real, self.n)
            if have < least[family]:
                raise ValueError(
                    f"{name} takes at least {least[family]} generated and as many real images, got n={self.n} and a "
                    f"data set of {len(self.dataset)}"
                )
        if "fid" in self._families and min(real, self.n) <= self.net.dim:
            warnings.warn(
                f"fid of {min(real, self.n)} images with the {self.net.dim} features of {self.net.name}: the covariance"
                " is singular and the distance biased upwards; compare it at this number of images only, take more "
                f"than {self.net.dim}, or use kid, which is unbiased",
                stacklevel=3,
            )

    def __call__(self, generate: Callable[[int], torch.Tensor] | torch.Tensor) -> dict[str, float]:
        if isinstance(generate, torch.Tensor):
            batches = iter(generate.split(self.batch_size))
        else:
            counts = [min(self.batch_size, self.n - start) for start in range(0, self.n, self.batch_size)]
            batches = (generate(count) for count in counts)
        fake = _Side(self._families)
        for images in batches:
            self._check(images)
            fake.update(self.net.to(images.device), images.detach())
        if not fake.finite:
            return {self.label(name): float("nan") for name in self.metrics}
        if self._real is None:
            self._measure_real(images.device)
        return {self.label(name): value for name, value in self._values(fake).items()}

    def _check(self, images: torch.Tensor) -> None:
        if not images.is_floating_point():
            raise TypeError(f"images takes floating values in [-1, 1], got {images.dtype}: see fastgan.data.normalize")
        if tuple(images.shape[1:]) != self._shape:
            raise ValueError(
                f"images takes shape (N, {', '.join(map(str, self._shape))}) like the data set "
                f"{getattr(self.dataset, 'name', '')!r}, got {tuple(images.shape)}"
            )

    def _measure_real(self, device: torch.device) -> None:
        real = _Side(self._families - {"is"})
        for part in real_subset(self.dataset, self.n).split(self.batch_size):
            real.update(self.net, normalize(self.dataset.batch(part)["image"]).to(device))
        if real.moments is not None:
            self._real_root = symmetric_root(real.moments.covariance)
        self._real = real

    def _values(self, fake: _Side) -> dict[str, float]:
        """The metrics asked for, and the deviations that belong to them, by plain name."""
        real, found = self._real, {}
        if "fid" in self._families:
            theirs, ours = real.moments, fake.moments
            found["fid"] = frechet_distance(
                theirs.mean, theirs.covariance, ours.mean, ours.covariance, root1=self._real_root
            )
        if "kid" in self._families:
            found["kid"], found["kid_std"] = kernel_distance(real.features, fake.features)
        if "is" in self._families:
            found["is"], found["is_std"] = inception_score(fake.logits)
        if "pr" in self._families:
            found["precision"], found["recall"] = precision_recall(real.features, fake.features)
        if "dc" in self._families:
            found["density"], found["coverage"] = density_coverage(real.features, fake.features)
        wanted = [full for name in self.metrics for full in (name, f"{name}_std")]
        return {name: found[name] for name in wanted if name in found}


def real_subset(dataset: Any, n: int) -> torch.Tensor:
    """Indices of the same at most ``n`` images at every call, in rising order; of a data set that repeats images
    (``FewLabels``) those that are ``distinct``."""
    generator = torch.Generator().manual_seed(SUBSET_SEED)
    distinct = getattr(dataset, "distinct", None)
    images = torch.arange(len(dataset)) if distinct is None else distinct
    return images[torch.randperm(len(images), generator=generator)[:n].sort().values]
