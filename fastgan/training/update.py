"""One update of a phase: ``zero_grad, loss, sum, backward, step, after``; and what runs it, eagerly.

``graphs.py`` runs the same function, recorded as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from fastgan.architectures.base import Phase, Stage
from fastgan.data.batch import Batch
from fastgan.training.batches import BatchStream
from fastgan.training.ema import ExponentialMovingAverage
from fastgan.training.meter import Meter
from fastgan.training.precision import Precision

__all__ = ["Updates", "only", "set_options", "total", "update"]


class Updates:
    """Runs updates in ``precision``, counts their losses in ``meter`` and moves the averages.

    ``report``: by "stage/phase", how the updates ran where a user asked for CUDA graphs; empty where nobody did.
    """

    def __init__(self, meter: Meter, ema: ExponentialMovingAverage, precision: Precision) -> None:
        self.meter = meter
        self.ema = ema
        self.precision = precision
        self.report: dict[str, str] = {}

    def session(self, batches: BatchStream) -> AbstractContextManager[None]:
        """Around the whole run, which draws from ``batches``."""
        return nullcontext()

    def begin(self, stage: Stage, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Before the first update of a stage, and after its optimisers' states were loaded."""

    def update(self, phase: Phase, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> None:
        self.meter.count(update(phase, optimizer, batch, step, self.meter, self.precision))

    def average(self) -> None:
        self.ema.update()


def update(
    phase: Phase,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    meter: Meter,
    precision: Precision,
    average: Callable[[list[nn.Parameter]], None] | None = None,
) -> list[str]:
    """One update; adds the loss terms to ``meter``'s sums and returns their names there.

    ``average``: what replaces the gradients by their means over the processes of the run, where there are several.
    """
    optimizer.zero_grad(set_to_none=True)
    with precision.autocast():
        terms = phase.loss(batch, step)
    averaged = None if average is None else partial(average, phase.parameters)
    precision.step(phase.name, total(terms, phase.name), optimizer, averaged)
    if phase.after is not None:
        with torch.no_grad():
            phase.after(step)
    names = [f"{phase.name}/{name}" for name in terms]
    for name, value in zip(names, terms.values(), strict=True):
        meter.add(name, value)
    return names


def set_options(phase: Phase, optimizer: torch.optim.Optimizer, step: int) -> None:
    """What ``phase.schedule`` says for this step; an option that is a tensor is overwritten in place."""
    if phase.schedule is None:
        return
    for name, value in phase.schedule(step).items():
        for group in optimizer.param_groups:
            if isinstance(group.get(name), torch.Tensor):
                group[name].fill_(value)
            else:
                group[name] = value


@contextmanager
def only(architecture: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, no parameter of the architecture requires grad but these: the discriminator's weight gradients are not
    computed in the generator's step. Those that the user froze stay frozen; all are put back."""
    mine = {id(parameter) for parameter in parameters}
    others = [p for p in architecture.parameters() if p.requires_grad and id(p) not in mine]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def total(terms: Mapping[str, torch.Tensor], phase: str) -> torch.Tensor:
    """Sum of the terms that require grad."""
    for name, value in terms.items():
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"loss {name!r} of phase {phase!r} is {got}; it takes a tensor of one value")
    trained = [value for value in terms.values() if value.requires_grad]
    if not trained:
        raise ValueError(f"phase {phase!r} has no loss that requires grad: nothing would be trained by {list(terms)}")
    return sum(trained[1:], trained[0])
