"""WGAN's loss as a measure of progress: Arjovsky et al., ICML 2017, figure 3 - the critic's estimate of the Wasserstein
distance falls as samples improve, for a DCGAN generator and for a perceptron.

The paper shows curves and samples. Here both are numbers: at 20 steps of the run, the mean estimate since the last one
(E f(x) - E f(G(z)), the negative of what the critic minimises) and the feature distance of the live generator, the one
that the critic sees (fastgan/recipes/_distance.py), and Spearman's rank correlation of the two. As in the paper the
critic is a DCGAN's in both runs, and it gets 100 updates a step for the first 25 steps, without which an estimate says
nothing at first. The learning rate is four times the paper's, for a hundredth of its steps, at a quarter of its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastgan.architectures.base import Preset
from fastgan.recipes import AtLeast, Recipe
from fastgan.recipes._distance import Distances
from fastgan.recipes._ranks import rank_correlations
from fastgan.recipes._run import train
from fastgan.training.callbacks import Callback
from fastgan.training.trainer import Trainer

MODEL = {"image_size": 16, "ngf": 32, "ndf": 16, "lr": 2e-4}
PRESETS = {  # a perceptron learns more slowly
    "dcgan": Preset("fashion_mnist", 1000, 32, MODEL),
    "mlp": Preset("fashion_mnist", 2000, 32, {**MODEL, "generator": "mlp"}),
}
LABELS = {"dcgan": "DCGAN generator", "mlp": "perceptron generator"}
LOOKS = 20


class Estimates(Callback):
    """The critic's estimate by step, each the mean since the one before."""

    def __init__(self) -> None:
        self.by_step: dict[int, float] = {}

    def on_record(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        self.by_step[record["step"]] = record["critic/wasserstein"]


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train with both generators; about three minutes on one CPU core."""
    measured, curves = {}, {}
    for generator, preset in PRESETS.items():
        label, every = LABELS[generator], preset.steps // LOOKS
        estimates, distances = Estimates(), Distances(range(every, preset.steps + 1, every))
        train("wgan", preset, out / generator, seed, callbacks=[estimates, distances], trainer={"log_every": every})
        curves[label] = (estimates.by_step, distances.live)
        measured[f"{label}: Spearman"] = spearman(list(estimates.by_step.values()), list(distances.live.values()))
        measured[f"{label}: first distance"], *_, measured[f"{label}: last distance"] = distances.live.values()
    draw(curves, out / "picture.png")
    return measured


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation of two sequences of one length, in which no value comes twice."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (a, b))
    return rank_correlations(a[:, None], b).item()


def draw(curves: Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]], file: Path) -> None:
    """Estimate and feature distance over the steps, a panel a generator."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'fastgan[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(curves), figsize=(9.5, 3.6))
    for panel, (label, (estimates, distances)) in zip(panels, curves.items(), strict=True):
        beside = panel.twinx()
        panel.plot(list(estimates), list(estimates.values()), "b.-", label="critic's estimate")
        beside.plot(list(distances), list(distances.values()), "r.--", label="feature distance")
        panel.set(title=label, xlabel="step")
        panel.set_ylabel("critic's estimate", color="b")
        beside.set_ylabel("feature distance", color="r")
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


RECIPE = Recipe(
    system="WGAN",
    data="fashion_mnist, 16 px",
    paper="figure 3: the curves fall together",
    checks=tuple(AtLeast(f"{label}: Spearman", 0.8) for label in LABELS.values()),
    measure=measure,
)
