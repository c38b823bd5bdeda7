"""Linear probe: how well a linear classifier tells classes apart by the features of a discriminator.

Radford et al. 2016 (DCGAN), section 5.1: the activated outputs of all convolutions, max-pooled to 4x4, flattened and
concatenated, and an L2-regularised linear SVM on top. Here the SVM has the squared hinge, one class against the rest,
and features are standardised first (the paper does not say). Its weight penalty is chosen on a held-out part of the
training images, and the classifier is then fitted to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from fastgan.analysis.activations import GRID, discriminator, feature_maps, image_batches, untrained
from fastgan.architectures.base import Architecture
from fastgan.data.dataset import ImageDataset

__all__ = ["Fitting", "LinearSVM", "Probed", "conv_features", "objective", "probe", "probe_all"]

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # from strong to weak: each begins at the solution before
PATIENCE = 2  # penalties that may be no better than the best before the rest is left out
HELD_OUT = 0.2  # share of the training images
TOLERANCE = 1e-5  # largest entry of the gradient at the solution; the objective is about 1
MAX_STEPS = 200  # of L-BFGS for one penalty


# -- features ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def conv_features(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(N, 16 * sum of channels): what ``feature_maps`` gives, max-pooled to 4x4 and concatenated."""
    maps = feature_maps(network, images)
    return torch.cat([F.adaptive_max_pool2d(m, GRID).flatten(1) for m in maps], dim=1)


def labelled(dataset: ImageDataset) -> torch.Tensor:
    """Rows (N,) of ``dataset`` that have a label.

    Raises:
        ValueError: no image has one.
    """
    labels = getattr(dataset, "labels", None)
    rows = torch.empty(0) if labels is None else (labels >= 0).nonzero().flatten()
    if not len(rows):
        raise ValueError(
            f"the data {dataset.name!r} has no labels: a probe takes labelled images, so give other --data"
        )
    return rows


# -- the classifier ----------------------------------------------------------------------------------------------------


def objective(
    standardized: torch.Tensor, signs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, penalty: float
) -> torch.Tensor:
    """mean over images of sum_k max(0, 1 - y_k f_k)^2, plus penalty * |weight|^2; biases are free.

    Args:
        standardized: (N, dim), features with mean 0 and deviation 1.
        signs: (N, num_classes), y_k: 1 for an image's class, -1 for the others.
        weight, bias: (num_classes, dim) and (num_classes,) of the scores f_k.
    """
    slack = (1 - signs * F.linear(standardized, weight, bias)).clamp(min=0)
    return slack.square().sum(1).mean() + penalty * weight.square().sum()


class LinearSVM(nn.Module):
    """Features (N, dim) -> scores (N, num_classes); the standardisation of the features is part of it."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter(mean.new_zeros(num_classes, len(mean)))
        self.bias = nn.Parameter(mean.new_zeros(num_classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.linear((features - self.mean) / self.scale, self.weight, self.bias)

    @torch.no_grad()
    def accuracy(self, features: torch.Tensor, labels: torch.Tensor) -> float:
        right = [(self(x).argmax(1) == y).sum() for x, y in zip(features.split(4096), labels.split(4096), strict=True)]
        return torch.stack(right).sum().item() / len(labels)


class Fitting:
    """The minimisation for one set of training features, by L-BFGS in coordinates where the objective is nearly round.

    Features of a network are so correlated that L-BFGS on the weights themselves takes thousands of steps. Where all
    images are inside the margin, the objective is quadratic with Hessian 2 H, H = X^T X / N + penalty; elsewhere its
    Hessian is less. So it is minimised over V, W^T = L^-T V with H = L L^T: a few dozen steps at any penalty.

    Args:
        features: (N, dim) floating; features that never change are given no weight. Memory: another copy of them and
            dim x dim.
        labels: (N,) in [0, num_classes).
    """

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
        self.mean, scale = features.mean(0), features.std(0)
        self.scale = torch.where(scale > 1e-6 * scale.amax(), scale, torch.inf)
        self.num_classes = num_classes
        self.x = (features - self.mean) / self.scale
        self.signs = F.one_hot(labels, num_classes).to(self.x.dtype) * 2 - 1
        self.gram = self.x.T @ self.x / len(self.x)

    def fit(self, penalty: float, start: LinearSVM | None = None) -> LinearSVM:
        """The SVM that minimises ``objective``: until no entry of the gradient over V is above TOLERANCE.

        Args:
            penalty: of the weights, above 0.
            start: a solution for another penalty, to begin at.
        """
        svm = LinearSVM(self.mean, self.scale, self.num_classes).requires_grad_(False)
        root = torch.linalg.cholesky(self.gram + penalty * torch.eye(len(self.gram)).to(self.gram))
        if start is not None:
            svm.weight.copy_(start.weight)
            svm.bias.copy_(start.bias)
        weight = (root.T @ svm.weight.T).requires_grad_()
        bias = svm.bias.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=MAX_STEPS, max_eval=2 * MAX_STEPS, tolerance_grad=TOLERANCE, tolerance_change=0,
            history_size=10, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            value = objective(self.x, self.signs, self.natural(root, weight), bias, penalty)
            value.backward()
            return value

        optimizer.step(evaluate)
        svm.weight.copy_(self.natural(root, weight.detach()))
        svm.bias.copy_(bias.detach())
        return svm

    @staticmethod
    def natural(root: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """(num_classes, dim) from V (dim, num_classes)."""
        return torch.linalg.solve_triangular(root.T, weight, upper=True).T


# -- the probe ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probed:
    """What a probe found."""

    accuracy: float  # share of the test images that are classified rightly
    held_out: float  # the same of the held-out part of the training images, at the chosen penalty
    penalty: float
    dim: int  # number of features
    train_images: int
    test_images: int


def probe(
    train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor, test_labels: torch.Tensor, seed: int = 0
) -> tuple[Probed, LinearSVM]:
    """Choose the penalty, fit, test.

    Args:
        train, test: features (N, dim) and (M, dim).
        train_labels, test_labels: (N,) and (M,) int64 from 0.
        seed: of the held-out part.

    Raises:
        ValueError: fewer than two classes, or fewer than ten training images.
    """
    if len(train) < 10 or len(train_labels.unique()) < 2:
        raise ValueError(f"a probe takes at least 10 training images of 2 classes, got {len(train)} of "
                         f"{len(train_labels.unique())}")  # fmt: skip
    num_classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).to(train.device)
    kept, held_out = order[round(HELD_OUT * len(train)) :], order[: round(HELD_OUT * len(train))]
    fitting = Fitting(train[kept], train_labels[kept], num_classes)
    best: tuple[float, float, LinearSVM] | None = None
    svm, worse = None, 0
    for penalty in PENALTIES:
        svm = fitting.fit(penalty, start=svm)
        accuracy = svm.accuracy(train[held_out], train_labels[held_out])
        if best is None or accuracy > best[0]:
            best, worse = (accuracy, penalty, svm), 0
        else:
            worse += 1
        if worse == PATIENCE:
            break
    accuracy, penalty, start = best
    svm = Fitting(train, train_labels, num_classes).fit(penalty, start=start)
    result = svm.accuracy(test, test_labels)
    return Probed(result, accuracy, penalty, train.shape[1], len(train), len(test)), svm


def probe_all(
    architecture: Architecture, train: ImageDataset, test: ImageDataset, seed: int = 0, name: str | None = None
) -> dict[str, Probed]:
    """Probes, on the same images, of the trained discriminator, an untrained one of its shape, and raw pixels.

    Args:
        architecture: trained; left as it is.
        train, test: images of its size and channels; those with a label are used.
        seed: of the untrained weights and of the held-out part.
        name: of a discriminator, where there are several.

    Returns:
        "trained", "untrained" and "pixels".

    Raises:
        ValueError: no labels, no discriminator, or one without convolutions.
    """
    sides = ((train, labelled(train)), (test, labelled(test)))
    networks = {"trained": discriminator(architecture, name), "untrained": untrained(architecture, seed, name)}
    extractors = {what: partial(conv_features, network) for what, network in networks.items()}
    extractors["pixels"] = partial(torch.flatten, start_dim=1)
    device = architecture.device
    (train_labels, test_labels) = (data.labels[rows].to(device) for data, rows in sides)
    found = {}
    for what, extract in extractors.items():
        fitted_to, tested_on = (
            torch.cat([extract(x) for x in image_batches(data, rows, device)]) for data, rows in sides
        )
        found[what], _ = probe(fitted_to, train_labels, tested_on, test_labels, seed)
    return found
