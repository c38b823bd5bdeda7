"""A classifier that learns from few labels and many samples without, against one that learns from the labels alone.

Both are of one architecture, preset and seed: the same first weights, the same labelled samples, as many steps. What
counts is the error on the split "test" after the last step. The least error of the looks on the way is recorded beside:
nobody could stop there without the test labels, but what is below it owes nothing to the other's overfitting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fastgan.architectures.base import Architecture
from fastgan.recipes import Below
from fastgan.training.batches import to_device
from fastgan.training.callbacks import Callback
from fastgan.training.grid import make_grid
from fastgan.training.trainer import Trainer

__all__ = ["ALONE", "LOWER", "SEMI", "Errors", "compare", "draw_errors", "test_error"]

LOOKS = 20
SEMI, ALONE = "with unlabelled samples", "labels alone"
LOWER = Below(f"{SEMI}: test error", than=f"{ALONE}: test error")


def compare(
    run: Callable[..., Trainer], out: Path, test: Any, *, alone: Mapping[str, Any]
) -> tuple[dict[str, Trainer], dict[str, float], dict[str, Mapping[int, float]]]:
    """Train twice, once with the labels alone.

    Args:
        run: ``fastgan.recipes._run.train`` of an architecture, a preset and a seed, or what takes out, callbacks and
            fields of Config as it does.
        out: folder of the recipe's seed.
        test: a data set, all of it labelled.
        alone: the fields of Config with which samples without label count for nothing.

    Returns:
        Both trainers, ``SEMI`` and ``ALONE``; their errors, and the least ones on the way; all errors by step.
    """
    runs, measured, curves = {}, {}, {}
    for label, changes in ((ALONE, alone), (SEMI, {})):
        errors = Errors(test)
        runs[label] = run(out=out / label.replace(" ", "_"), callbacks=[errors], **changes)
        curves[label] = errors.by_step
        measured[f"{label}: test error"] = errors.by_step[runs[label].steps]
        measured[f"{label}: least test error on the way"] = min(errors.by_step.values())
    return runs, measured, curves


class Errors(Callback):
    """The error on ``data`` by step, at ``LOOKS`` looks, of the averaged networks where there are averages."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.by_step: dict[int, float] = {}

    def on_step(self, trainer: Trainer) -> None:
        if trainer.due(max(1, trainer.steps // LOOKS)):
            with trainer.averaged() as architecture:
                self.by_step[trainer.step] = test_error(architecture, self.data)


@torch.no_grad()
def test_error(architecture: Architecture, data: Any, batch_size: int = 500) -> float:
    """The share of ``data`` that ``predict`` names wrongly, in the architecture's present mode."""
    wrong = 0
    for indices in torch.arange(len(data)).split(batch_size):
        batch = to_device(data.batch(indices), architecture.device)
        wrong += (architecture.predict(batch).argmax(1) != batch.label).sum().item()
    return wrong / len(data)


def draw_errors(curves: Mapping[str, Mapping[int, float]], file: Path, samples: torch.Tensor | None = None) -> None:
    """Test errors over the steps, a line a training; beside them images (N, C, H, W) in [-1, 1] where there are any."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'fastgan[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = 1 if samples is None else 2
    figure, panels = pyplot.subplots(1, count, figsize=(6 * count, 4), squeeze=False)
    panel = panels[0, 0]
    for label, errors in curves.items():
        panel.plot(list(errors), [100 * error for error in errors.values()], ".-", label=label)
    panel.set(xlabel="step", ylabel="test error in %", ylim=(0, None))
    panel.grid(alpha=0.3)
    panel.legend()
    if samples is not None:
        panels[0, 1].imshow(make_grid(samples).numpy(), cmap="gray", vmin=0, vmax=255)
        panels[0, 1].axis("off")
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    pyplot.close(figure)
