"""Training as the recipes do it: a preset, a seed, a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastgan import registry
from fastgan.architectures.base import Preset
from fastgan.training.callbacks import Callback
from fastgan.training.preset import get_preset, prepare
from fastgan.training.trainer import Trainer

__all__ = ["train"]

LOOKS = 20  # how often a run is recorded


def train(
    name: str,
    preset: str | Preset,
    out: Path,
    seed: int,
    *,
    callbacks: Iterable[Callback] = (),
    trainer: Mapping[str, Any] | None = None,
    **model: Any,
) -> Trainer:
    """Train architecture ``name`` by a preset; the run folder is ``out/NAME``, and a run found there goes on.

    Args:
        name: of the architecture.
        preset: one of its own by name, or another.
        out: folder of the recipe's seed.
        seed: of weights, noise, data order and drawn data.
        callbacks: the Trainer's.
        trainer: other arguments of the Trainer.
        model: fields of its Config that differ from the preset's.

    Returns:
        The trainer after its last step: ``with trainer.averaged() as architecture`` gives the averaged generators.
    """
    cls = registry.get(name)
    if isinstance(preset, str):
        preset = get_preset(cls, preset)
    architecture, dataset = prepare(cls, preset.data, {**preset.model, **model}, seed=seed, size=preset.size)
    every = max(1, preset.steps // LOOKS)
    arguments = {
        "steps": preset.steps,
        "batch_size": preset.batch_size,
        "seed": seed,
        "out": out / cls.name,
        "log_every": every,
        "sample_every": preset.steps,
        "checkpoint_every": 5 * every,
        "callbacks": callbacks,
        "progress": False,
        **(trainer or {}),
    }
    run = Trainer(architecture, dataset, **arguments)
    run.fit()
    return run
