"""What a run does besides training: progress, records, samples, the metric. Each reads the trainer and steers nothing.

After every step the trainer calls ``on_step`` of all callbacks in their order, merges what they return with the losses
where these are due, and hands a record that is not empty to ``on_record`` of all. The checkpoint follows, with each
``state_dict``.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from fastgan.architectures.base import Architecture
from fastgan.data.batch import Batch
from fastgan.training import rng
from fastgan.training.grid import is_drawn_as_points, save_grid, save_scatter

if TYPE_CHECKING:
    from fastgan.training.trainer import Trainer

__all__ = ["BestMetric", "Callback", "GradientAlarm", "MetricsFile", "Progress", "SampleGrid"]

log = logging.getLogger("fastgan")

POINTS = 2000  # samples, and as many of the data, in the picture of a model that makes points

# metric(architecture) -> (name, value, whether lower is better), called with the averaged generators in eval mode; a
# fourth item, a dict of other values by name, goes into the record beside it
Metric = Callable[[Architecture], tuple[str, float, bool] | tuple[str, float, bool, Mapping[str, float]]]


class Callback:
    """Base of all callbacks; every method may be left out. ``trainer.due(every)`` says whether it is time."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step, after a checkpoint is loaded (``trainer.step`` > 0 then)."""

    def on_step(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """After a step; ``trainer.step`` counts it. What is returned goes into the step's record."""

    def on_record(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        """A record for metrics.jsonl: step, stage, epoch, and what was due."""

    def on_end(self, trainer: Trainer) -> None:
        """When the run ends, also by an exception."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: tensors, numbers, strings, lists, dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Called before ``on_start`` of a resumed run."""


class Progress(Callback):
    """A progress bar on a terminal that has tqdm; plain lines elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_start(self, trainer: Trainer) -> None:
        if trainer.step:
            print(f"going on from step {trainer.step} of {trainer.steps}", file=sys.stderr)
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=trainer.steps, initial=trainer.step, unit="step", dynamic_ncols=True)

    def on_step(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def on_record(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        values = {k: v for k, v in record.items() if isinstance(v, float) and k != "epoch"}
        if self._bar is not None:
            self._bar.set_postfix({k.split("/")[-1]: f"{v:.3g}" for k, v in values.items()}, refresh=False)
        else:
            text = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
            print(f"step {record['step']}/{trainer.steps}  {text}", file=sys.stderr, flush=True)

    def on_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.close()


class MetricsFile(Callback):
    """Appends every record to the run's metrics.jsonl."""

    def on_record(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        if trainer.run is not None:
            trainer.run.append(record)


class SampleGrid(Callback):
    """Draws the averaged generator from the same noise and conditions every time: samples/step_000500.png.

    The noise is drawn once from the run's seed and kept in the checkpoint; conditions (labels, sources) are those of
    the first items of the data set. Points on the line or in the plane are drawn together with the data's; models that
    make neither (video, classes) get no picture.
    """

    def __init__(self, every: int | None, columns: int = 8, width: int = 1024) -> None:
        self.every, self.columns, self.width = every, columns, width
        self._latent: torch.Tensor | None = None
        self._batch: Batch | None = None
        self._data: torch.Tensor | None = None  # points of the data, where the model makes points

    def on_start(self, trainer: Trainer) -> None:
        if self.every is None or trainer.run is None:
            return
        architecture = trainer.architecture
        columns = min(self.columns, max(1, self.width // architecture.config.image_size))
        count, conditions = columns**2, {}
        if architecture.config.image_size == 1:
            first = trainer.batches.first(POINTS)
            count, self._data = len(first), first.image
            conditions = {name: getattr(first, name) for name in architecture.conditions}
        elif architecture.conditions:
            first = trainer.batches.first(count)
            columns = math.isqrt(len(first))
            count = columns**2
            conditions = {name: getattr(first, name)[:count] for name in architecture.conditions}
        if self._latent is None:
            self._latent = self._draw(trainer, count)
        latent = None if self._latent is None else self._latent.to(trainer.device)
        self._batch, self.columns = Batch(**{**conditions, "latent": latent}), columns

    @staticmethod
    def _draw(trainer: Trainer, count: int) -> torch.Tensor | None:
        with rng.isolated(rng.mix(trainer.seed, 1), trainer.device), torch.no_grad():
            try:
                return trainer.architecture.latent(count)
            except NotImplementedError:  # an image-to-image model takes no noise
                return None

    def on_step(self, trainer: Trainer) -> None:
        if self._batch is None or not trainer.due(self.every):
            return
        with trainer.averaged() as architecture, rng.isolated(rng.mix(trainer.seed, 2), trainer.device):
            try:
                images = architecture.generate(self._batch)
            except NotImplementedError:  # a classifier
                images = None
        if images is not None and is_drawn_as_points(images):
            save_scatter(images, trainer.run.sample(trainer.step), self._data)
        elif images is None or images.dim() != 4 or max(images.shape[2:]) < 2:
            self._batch = None
        else:
            save_grid(images, trainer.run.sample(trainer.step), self.columns)

    def state_dict(self) -> dict[str, Any]:
        return {"latent": self._latent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._latent = state["latent"]


class BestMetric(Callback):
    """Measures the averaged generator and keeps the best checkpoint: GANs rise, then may collapse.

    Every measurement sees the same random numbers, so that two steps are compared on the same noise.
    """

    def __init__(self, metric: Metric, every: int | None) -> None:
        self.metric, self.every = metric, every
        self.best: float | None = None
        self.best_step: int | None = None

    def on_step(self, trainer: Trainer) -> Mapping[str, Any] | None:
        if not trainer.due(self.every):
            return None
        with trainer.averaged() as architecture, rng.isolated(rng.mix(trainer.seed, 3), trainer.device):
            name, value, lower_is_better, *beside = self.metric(architecture)
        value = float(value)
        better = self.best is None or (value < self.best if lower_is_better else value > self.best)
        if math.isfinite(value) and better:
            self.best, self.best_step = value, trainer.step
            trainer.save_best(name, value)
        values = {name: value, **(beside[0] if beside else {})}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]


class GradientAlarm(Callback):
    """Records the norm of every network's gradient, and says so in one sentence where it leaves [smallest, largest].

    Norms of 100 and more mean that something is wrong (Chintala et al. 2016, "How to train a GAN?", tip 10); a
    vanishing one, that a network has nothing left to learn from the other. The norms are those of each network's latest
    update, over all its parameters: "discriminator/gradient_norm" in the records. Warned about once until it is well
    again, every so many steps (the last one too), since reading them waits for the device.
    """

    def __init__(self, every: int | None = 50, largest: float = 100.0, smallest: float = 1e-7) -> None:
        if not 0.0 <= smallest < largest:
            raise ValueError(
                f"GradientAlarm: smallest is {smallest} and largest {largest}; they take 0 or more, in order"
            )
        self.every, self.largest, self.smallest = every, largest, smallest
        self._warned: set[str] = set()

    def on_start(self, trainer: Trainer) -> None:
        if trainer.cuda_graph:
            raise ValueError(
                "GradientAlarm reads gradients between updates, where those of CUDA graphs mean nothing: use the one "
                "(gradient_alarm) or the other (cuda_graph)"
            )

    def on_step(self, trainer: Trainer) -> Mapping[str, Any] | None:
        if not trainer.due(self.every):
            return None
        record: dict[str, float | None] = {}
        for name, network in trainer.architecture.named_children():
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            if gradients:
                norm = torch.nn.utils.get_total_norm(gradients).item()
                self._judge(name, norm, trainer.step)
                record[f"{name}/gradient_norm"] = norm if math.isfinite(norm) else None  # JSON has no NaN
        return record

    def _judge(self, network: str, norm: float, step: int) -> None:
        if self.smallest <= norm <= self.largest:
            self._warned.discard(network)
        elif network not in self._warned:
            self._warned.add(network)
            side = f"below {self.smallest:g}" if norm < self.smallest else f"not within {self.largest:g}"
            log.warning("the gradient of the %s has norm %.3g at step %d, %s", network, norm, step, side)

    def state_dict(self) -> dict[str, Any]:
        return {"warned": sorted(self._warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._warned = set(state["warned"])
