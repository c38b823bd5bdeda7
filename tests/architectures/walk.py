"""What a trainer does with an architecture, in the fewest lines: walk stages, steps and phases."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import torch

from fastgan.architectures.base import Architecture, Phase
from fastgan.data.batch import Batch


def set_trainable(architecture: Architecture, phase: Phase) -> None:
    """Only the parameters of the running phase collect gradients."""
    trained = {id(p) for p in phase.parameters}
    for p in architecture.parameters():
        p.requires_grad_(id(p) in trained)


def update(phase: Phase, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> dict[str, torch.Tensor]:
    """One update of one phase; returns its loss terms."""
    for group in optimizer.param_groups:
        group.update(phase.schedule(step) if phase.schedule else {})
    optimizer.zero_grad()
    terms = phase.loss(batch, step)
    sum(term for term in terms.values() if term.requires_grad).backward()
    optimizer.step()
    if phase.after is not None:
        with torch.no_grad():
            phase.after(step)
    return {name: term.detach() for name, term in terms.items()}


def walk(architecture: Architecture, batches: Iterator[Batch], steps: int) -> Counter:
    """Train ``steps`` steps of every stage (fewer where the stage is shorter); counts updates by (stage, phase)."""
    updates: Counter = Counter()
    for stage in architecture.stages():
        optimizers = {phase.name: phase.optimizer(phase.parameters) for phase in stage.phases}
        for step in range(min(steps, stage.steps or steps)):
            batch = None
            for phase in stage.phases:
                set_trainable(architecture, phase)
                for _ in range(phase.repeats(step)):
                    batch = next(batches) if phase.fresh_batch or batch is None else batch
                    update(phase, optimizers[phase.name], batch, step)
                    updates[stage.name, phase.name] += 1
    return updates


def batches_of(batch: Batch) -> Iterator[Batch]:
    """The same batch for ever."""
    return itertools.repeat(batch)
