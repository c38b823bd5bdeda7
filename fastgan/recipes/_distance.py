"""How far samples are from the data, and the bar of systems whose papers show pictures: a tenth of a run and its end.

The distance is the Fréchet distance of ``random_conv_v1`` features, 2048 samples against 2048 images of the training
split: the same images and the same noise each time. It is that of the averaged generator, which is what a run keeps and
what samples are drawn from; the live one's is recorded beside it. Early in a run the average reaches back over a tenth
of it (``fastgan.training.ema``), so that neither is held back by the weights that training began with.

Two systems are compared by the mean over ``last_fifth``: games this short move by half from one look to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastgan import registry
from fastgan.architectures.base import Architecture
from fastgan.data import load, normalize
from fastgan.metrics import Measure
from fastgan.metrics.measure import real_subset
from fastgan.recipes import AtMost
from fastgan.recipes._run import train
from fastgan.training import rng
from fastgan.training.callbacks import Callback
from fastgan.training.grid import save_grid
from fastgan.training.preset import get_preset

if TYPE_CHECKING:
    from fastgan.training.trainer import Trainer

__all__ = [
    "HALVED",
    "N",
    "Distances",
    "draw",
    "last_fifth",
    "mean",
    "of_real_images",
    "tenth_and_end",
    "train_and_measure",
]

N = 2048  # samples, and images they are compared with
HALVED = AtMost("distance at the end / at 10%", 0.5)
COLUMNS, ROWS = 12, 4  # of the picture


def train_and_measure(name: str, preset: str, out: Path, seed: int) -> tuple[Trainer, dict[str, float]]:
    """Train architecture ``name`` by one of its presets, draw samples, and measure at a tenth and at the end."""
    steps = get_preset(registry.get(name), preset).steps
    distances = Distances((steps // 10, steps))
    trainer = train(name, preset, out, seed, callbacks=[distances])
    draw(trainer, out / "picture.png")
    return trainer, {**tenth_and_end(distances, steps), "distance of real images": of_real_images(trainer)}


def draw(trainer: Trainer, file: Path) -> None:
    """Samples of the averaged generator."""
    with trainer.averaged() as architecture, rng.isolated(trainer.seed, trainer.device):
        save_grid(architecture.sample(COLUMNS * ROWS), file, COLUMNS)


class Distances(Callback):
    """Measures both generators after the steps ``at``: distances by step in ``averaged`` and ``live``.

    ``also``: other metrics that ``Measure`` knows, of the averaged generator: by name, then by step.
    """

    def __init__(self, at: Iterable[int], also: Iterable[str] = ()) -> None:
        self.at = frozenset(at)
        self.also: dict[str, dict[int, float]] = {metric: {} for metric in also}
        self.averaged: dict[int, float] = {}
        self.live: dict[int, float] = {}
        self._measure: Measure | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._measure = Measure(trainer.batches.dataset, ["fid", *self.also], n=N)

    def on_step(self, trainer: Trainer) -> None:
        if trainer.step not in self.at:
            return
        with trainer.averaged() as architecture:
            self.averaged[trainer.step], *others = self._values(trainer, architecture)
        for by_step, value in zip(self.also.values(), others, strict=True):
            by_step[trainer.step] = value
        self.live[trainer.step], *_ = self._values(trainer, trainer.architecture)

    def _values(self, trainer: Trainer, architecture: Architecture) -> list[float]:
        """The distance, then what is measured beside it."""
        with rng.isolated(rng.mix(trainer.seed, 3), trainer.device):
            found = self._measure(architecture.sample)
        return [found[self._measure.label(metric)] for metric in ("fid", *self.also)]


def last_fifth(steps: int) -> list[int]:
    """Five looks: after 80%, 85%, 90%, 95% and 100% of the steps."""
    return [steps * percent // 100 for percent in (80, 85, 90, 95, 100)]


def mean(by_step: Mapping[int, float]) -> float:
    """Of what was measured at several steps."""
    return sum(by_step.values()) / len(by_step)


def tenth_and_end(distances: Distances, steps: int) -> dict[str, float]:
    """What ``distances`` measured at a tenth of ``steps`` and at their end, and the ratio of the two."""
    tenth = steps // 10
    return {
        "distance at 10%": distances.averaged[tenth],
        "distance at the end": distances.averaged[steps],
        "distance at the end / at 10%": distances.averaged[steps] / distances.averaged[tenth],
        "live generator: distance at the end / at 10%": distances.live[steps] / distances.live[tenth],
    }


def of_real_images(trainer: Trainer) -> float:
    """The distance of as many images of the test split: what no generator can be asked to stay below."""
    train = trainer.batches.dataset
    test = load(train.name, image_size=train.image_size, split="test")
    images = normalize(test.batch(real_subset(test, N))["image"])
    (value,) = Measure(train, ["fid"], n=N)(images).values()
    return value
