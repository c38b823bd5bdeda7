"""InfoGAN on MNIST: Chen et al. 2016, figure 2 - a code that sorts digits without having seen a label.

The paper matches each of the ten categories to a digit and reports 5% error as remembered, on all of MNIST; and a bound
of the mutual information that reaches H(c) = ln 10 (figure 1). Here there are 4000 training images, of 16 px, small
networks and minutes; each category stands for its most frequent digit among the training images, and the error is
that of the 1000 test images. The bound is that of fresh codes. Generator and Q are the averaged ones.

All of ln 10 is reached by any ten kinds of image that G can draw and Q can tell; that they are the digits is left to
what a run settles on in its first 4000 steps. So six are begun, the two are gone on with in which neighbours among the
real images share their category the most (``shared_information``), and what is judged is the one network among all that
were looked at, every 500 steps, in which they do. No label has a part in that; the paper has nothing like it. Labels
did have one in finding the criterion, among 26, by eight starts of other seeds: it ranks them as their category errors
do (Spearman .95 after 4000 steps, .5 after 3000), and the steps of one run from 4000 to 7000 (.86 to .93). There runs
end, before the preset's rates are 0: the three best of those eight went on, and from 5000 to 7000 on their errors rose
again, from 7%, 12% and 13% to 14%, 15% and 17%, at a bound as high as ever.

The picture: a row a category, in the order of their digits. Left: ten draws of everything else. Middle and right: from
one draw, each continuous code from -1 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F

from fastgan import Batch
from fastgan.architectures.infogan import InfoGAN, Posterior
from fastgan.data import load
from fastgan.data.dataset import ImageDataset, normalize
from fastgan.metrics.manifold import squared_distances
from fastgan.recipes import AtMost, Recipe
from fastgan.recipes._ranks import rank_correlations
from fastgan.recipes._run import train
from fastgan.training import rng
from fastgan.training.checkpoint import load_state, read_run
from fastgan.training.grid import save_grid

__all__ = [
    "bound",
    "category_names",
    "continuous_panels",
    "nearest_neighbours",
    "posterior",
    "save_panels",
    "save_traversals",
    "shared_information",
]

DATA = "mnist_5k"
STARTS = 6  # runs that are begun
SETTLED = 4000  # steps after which the better starts show; earlier they do not
FINALISTS = 2  # of them
STEPS = 7000  # of a finalist
EVERY = 500  # steps between looks at the agreement
NEIGHBOURS = 5  # of an image
SAMPLES = 5000  # that the bound is a mean over
CELL = 32  # pixels of an image in the picture, or its own size


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train, sort the digits, draw the traversals; ten minutes on one CPU core."""
    size = InfoGAN.presets[DATA].model["image_size"]
    splits = [load(DATA, image_size=size, split=split) for split in ("train", "test")]
    metric = Agreement(splits[0])
    starts = {start: run(out, start, SETTLED, metric) for start in (1000 * (seed + 1) + n for n in range(STARTS))}
    finalists = sorted(starts, key=lambda start: starts[start].agreement)[-FINALISTS:]
    gan = max((run(out, start, STEPS, metric) for start in finalists), key=lambda finished: finished.agreement).gan

    found = sort_digits(gan, splits)
    with torch.no_grad(), rng.isolated(seed, gan.device):
        nats = bound(gan)
        save_traversals(gan, out / "picture.png", order=found.names.argsort(stable=True))
    return {
        "gap of the bound to ln 10, relative": 1 - nats["categorical"] / math.log(gan.config.categories),
        "category error": found.test_error,
        "category error on the training images": found.train_error,
        "digits that are a category's": len(found.names.unique()),
        "bound of the continuous codes in nats": nats["continuous"],
        **compare_starts(list(starts.values()), splits),
    }


def compare_starts(starts: Sequence[Run], splits: Sequence[ImageDataset]) -> dict[str, float]:
    """For the record, what choosing gains: the category errors of all starts, and whether agreement ranks them."""
    found = [sort_digits(start.gan, splits) for start in starts]
    errors = [digits.test_error for digits in found]
    agreement = torch.tensor([[start.agreement] for start in starts])
    correlation = rank_correlations(agreement, torch.tensor([1 - digits.train_error for digits in found]))
    return {
        "category error of the starts, least": min(errors),
        "category error of the starts, mean": fmean(errors),
        "category error of the starts, most": max(errors),
        "rank correlation of the starts' agreement and accuracy": correlation.item(),
    }


class Run(NamedTuple):
    """The best of what a run has been so far."""

    gan: InfoGAN
    agreement: float


def run(out: Path, seed: int, steps: int, metric: Agreement) -> Run:
    """Train up to ``steps``, going on from where the run of ``seed`` is."""
    judged = {"steps": steps, "metric": metric, "metric_every": EVERY}
    trainer = train("infogan", DATA, out / f"start-{seed}", seed, trainer=judged)
    state, file = read_run(trainer.run.path, "best")
    return Run(load_state(state, file), state["metric"]["value"])


class Agreement:
    """A run's metric: whether neighbours among the images ``data`` share their category; no label is looked at."""

    name = "agreement of neighbours"

    def __init__(self, data: ImageDataset) -> None:
        self.data, self.neighbours = data, nearest_neighbours(data)

    def __call__(self, gan: InfoGAN) -> tuple[str, float, bool]:
        categories = posterior(gan, self.data).logits[:, 0].argmax(1)
        return self.name, shared_information(categories, self.neighbours, gan.config.categories), False


class Sorted(NamedTuple):
    """What Q's categories say of the digits."""

    names: torch.Tensor  # (categories,): the digit that each stands for
    train_error: float
    test_error: float


@torch.no_grad()
def sort_digits(gan: InfoGAN, splits: Sequence[ImageDataset]) -> Sorted:
    """Name the categories by the labels of the first of ``splits`` (train, test), and compare with those of both."""
    categories = [posterior(gan, split).logits[:, 0].argmax(1) for split in splits]
    names = category_names(categories[0], splits[0].labels, gan.config.categories)
    return Sorted(names, *(error(names[of], split.labels) for of, split in zip(categories, splits, strict=True)))


def nearest_neighbours(data: ImageDataset) -> torch.Tensor:
    """(N, NEIGHBOURS): of every image of ``data`` the nearest others, by their pixels."""
    images = normalize(data.batch(torch.arange(len(data)))["image"]).flatten(1).double()
    distances = squared_distances(images, images).fill_diagonal_(math.inf)
    return distances.topk(NEIGHBOURS, largest=False).indices


def shared_information(categories: torch.Tensor, neighbours: torch.Tensor, count: int) -> float:
    """Mutual information in nats of the categories (N,) of images and of those of their ``neighbours`` (N, K).

    0 where all are in one category or neighbours know nothing of each other's; log(count) where ``count`` categories
    are as frequent and neighbours always share theirs.
    """
    pairs = categories[:, None] * count + categories[neighbours]
    joint = torch.bincount(pairs.flatten(), minlength=count**2).double().reshape(count, count) / pairs.numel()
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    met = joint > 0
    return (joint[met] * (joint[met] / independent[met]).log()).sum().item()


def bound(gan: InfoGAN) -> dict[str, float]:
    """L_I in nats of the categorical and of the continuous codes of ``SAMPLES`` fresh images."""
    latents = gan.latent(SAMPLES).split(500)
    found = [gan.information(gan.codes(gan.generate(Batch(latent=latent))), latent) for latent in latents]
    return {kind: sum(nats[kind].item() for nats in found) / len(found) for kind in found[0]}


def posterior(gan: InfoGAN, data: ImageDataset) -> Posterior:
    """Q's posterior of the codes of every image of ``data``."""
    batches = torch.arange(len(data)).split(500)
    found = [gan.codes(normalize(data.batch(indices)["image"])) for indices in batches]
    return Posterior(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def category_names(categories: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """The most frequent of ``labels`` (N,) in each of ``count`` categories; of an empty one the first."""
    both = F.one_hot(categories, count).T @ F.one_hot(labels)
    return both.argmax(1)


def error(named: torch.Tensor, labels: torch.Tensor) -> float:
    return (named != labels).double().mean().item()


def save_traversals(gan: InfoGAN, file: Path, order: torch.Tensor) -> None:
    """A row for each category in ``order``; a panel of random draws, then one for each continuous code."""
    latent = gan.latent(10)
    rows = gan.traverse(latent[0:1], 0, order.tolist())[0]  # one draw in every category
    save_panels(gan, file, [gan.traverse(latent, 0, order.tolist()).transpose(0, 1), *continuous_panels(gan, rows)])


def continuous_panels(gan: InfoGAN, rows: torch.Tensor) -> list[torch.Tensor]:
    """Each continuous code at ten values in the latents ``rows`` (R, latent_dim): (R, 10, latent_dim) a code."""
    return [gan.traverse(rows, gan.config.categorical + code) for code in range(gan.config.continuous)]


def save_panels(gan: InfoGAN, file: Path, panels: Sequence[torch.Tensor]) -> None:
    """Images of panels of latents (rows, columns, latent_dim), side by side with a blank column between."""
    images = [gan.generate(Batch(latent=panel.flatten(0, 1))).unflatten(0, panel.shape[:2]) for panel in panels]
    blank = torch.ones_like(images[0][:, :1])
    columns = torch.cat([column for image in images for column in (image, blank)][:-1], dim=1)
    zoom = max(1, CELL // gan.config.image_size)
    save_grid(F.interpolate(columns.flatten(0, 1), scale_factor=zoom), file, columns=columns.shape[1])


RECIPE = Recipe(
    system="InfoGAN",
    data="MNIST, 4000 training images",
    paper="5% error on 60,000 images, as remembered; bound at ln 10",
    checks=(AtMost("gap of the bound to ln 10, relative", 0.05), AtMost("category error", 0.10)),
    measure=measure,
    tried="one run a seed, of 12,000 steps and with no choice: 8%, 22% and 42%. The choice ranks starts well, but has "
    "few good ones: of 26 (these 18, and the eight that it was found by) three were at 11% or less after 4000 steps, "
    "the others at 15% to 35%. One run of half as many steps, with rates that stay: 11% to 27%. Of other changes to "
    "those, noise at 0.3 and at 2.5 times its range, R1 with weight 1, batches of 128, lambda 0.2, 0.3 and 2 and "
    "images translated at random were no better.",
)
