"""Metrics of an architecture: samples for them, the run's metric, and the watch for a collapse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from fastgan.architectures.base import Architecture
from fastgan.metrics import METRICS, CollapseDetector, CollapseReport, Measure
from fastgan.training import rng
from fastgan.training.batches import to_device
from fastgan.training.callbacks import Callback

if TYPE_CHECKING:
    from fastgan.training.trainer import Trainer

__all__ = ["CollapseWatch", "RunMetric", "sampler"]

log = logging.getLogger("fastgan")


def sampler(architecture: Architecture, dataset: Any) -> Callable[[int], torch.Tensor]:
    """``generate(n)``: n images from noise; from a conditional model, under the conditions of random items of the data.

    Random numbers come from torch's global generators.

    Raises:
        ValueError: the data lacks a condition; by ``generate``.
    """
    if not architecture.conditions:
        return architecture.sample

    def generate(n: int) -> torch.Tensor:
        rows = dataset.batch(torch.randint(len(dataset), (n,)))
        if missing := [name for name in architecture.conditions if name not in rows]:
            raise ValueError(f"{architecture.name} generates from {missing[0]!r}, which the data does not have")
        given = to_device({name: rows[name] for name in architecture.conditions}, architecture.device)
        was_training = architecture.training
        architecture.eval()
        try:
            with torch.no_grad():
                return architecture.generate(given)
        finally:
            architecture.train(was_training)

    return generate


class RunMetric:
    """What ``Trainer(metric=...)`` takes, of a ``Measure``: its first metric keeps the best checkpoint, by its own
    direction, and the others stand beside it in the record."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        first, *others = measure.metrics
        beside = f" beside {', '.join(others)}" if others else ""
        self.name = f"{measure.label(first)} n={measure.n}{beside}"

    def __call__(self, architecture: Architecture) -> tuple[str, float, bool, Mapping[str, float]]:
        values = self.measure(sampler(architecture, self.measure.dataset))
        first = self.measure.metrics[0]
        name = self.measure.label(first)
        return name, values.pop(name), METRICS[first].lower_is_better, values


class CollapseWatch(Callback):
    """Looks for a collapse every so many steps, records what it measures, and warns in one sentence when one begins.

    Every generator begins with samples that are all alike: until they were diverse once, that is worth a warning at
    the last step alone. The averaged generator is watched, like everywhere: it is what will be kept. The same noise is
    drawn each time.
    """

    def __init__(self, detector: CollapseDetector, dataset: Any, every: int | None) -> None:
        self.detector, self.dataset, self.every = detector, dataset, every
        self.report: CollapseReport | None = None
        self._diverse = False  # whether samples were at the last look

    def on_step(self, trainer: Trainer) -> Mapping[str, Any] | None:
        if not trainer.due(self.every):
            return None
        with trainer.averaged() as architecture, rng.isolated(rng.mix(trainer.seed, 4), trainer.device):
            images = sampler(architecture, self.dataset)(self.detector.n)
        if not images.isfinite().all():
            return None  # the trainer stops at the next look at the weights, with a better sentence
        self.report = self.detector(images)
        if self.report.collapsed and (self._diverse or trainer.step == trainer.steps):
            log.warning("the generator seems to have collapsed at step %d: %s", trainer.step, self._reasons())
        self._diverse = not self.report.collapsed
        return self.report.values()

    def _reasons(self) -> str:
        return "; ".join(self.report.reasons)

    def state_dict(self) -> dict[str, Any]:
        return {"diverse": self._diverse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._diverse = state["diverse"]
