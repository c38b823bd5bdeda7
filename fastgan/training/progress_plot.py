"""The progress plot: every metric and every loss of a run over its steps, from metrics.jsonl to one PNG.

A GAN's losses do not fall as its samples improve; the metric, drawn above them on the same axis, is the measure of
progress that they lack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastgan.training.checkpoint import CheckpointError, write_atomically
from fastgan.training.run_folder import read_records

__all__ = [
    "DEVIATION",
    "Curve",
    "GRADIENT_NORM",
    "curves_of",
    "label_of",
    "panels_of",
    "read_curves",
    "save_progress_plot",
]

NOT_CURVES = ("step", "stage", "epoch", "images_per_second")
SHARES = ("precision", "recall", "density", "coverage")
DEVIATION = "_std["  # kid_std[NET] is drawn as the band of kid[NET]

GRADIENT_NORM = "/gradient_norm"  # by network, on a panel of their own

Curve = list[tuple[int, float]]


def read_curves(metrics_file: str | Path) -> dict[str, Curve]:
    """{name: [(step, value), ...]} of everything that a run recorded but its speed; a half-written line is skipped.

    Raises:
        CheckpointError: no such file, or nothing in it.
    """
    path = Path(metrics_file)
    if not path.is_file():
        raise CheckpointError(f"there is no {path}: a run writes it as it trains")
    curves = curves_of(read_records(path)[0])
    if not curves:
        raise CheckpointError(f"{path} holds no records yet: train for longer, or record more often (log_every)")
    return curves


def curves_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """{name: [(step, value), ...]} of every finite number in the records but ``NOT_CURVES``."""
    curves: dict[str, Curve] = {}
    for record in records:
        for name, value in record.items():
            if name not in NOT_CURVES and isinstance(value, (int, float)) and math.isfinite(value):
                curves.setdefault(name, []).append((record["step"], value))
    return curves


def save_progress_plot(curves: Mapping[str, Curve], path: str | Path, title: str = "") -> Path:
    """Draw panels of metrics, and one of each phase's losses, over common steps; returns the path.

    Args:
        curves: of ``read_curves``; losses are the names with a slash ("generator/adversarial").
        path: PNG to write, whole or not at all.
        title: above it all.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the progress plot needs matplotlib: pip install matplotlib") from error
    panels = panels_of(curves)
    figure = Figure(figsize=(9, 0.6 + 1.7 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user has
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (panel, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            _draw(axis, curves, name)
        axis.set_ylabel(panel.replace("[", "\n["), fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        if len(names) > 1:
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[-1].set_xlabel("step", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    path = Path(path)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
    return path


def panels_of(curves: Mapping[str, Curve]) -> dict[str, list[str]]:
    """Names by panel, metrics first: shares of images have a panel together, as have a phase's losses and the norms of
    gradients; every other metric has its own, since no two share a scale."""
    metrics, losses = {}, {}
    for name in curves:
        metric, bracket, net = name.partition("[")
        if name.endswith(GRADIENT_NORM):
            losses.setdefault("gradient norms", []).append(name)
        elif "/" in name:
            losses.setdefault(name.split("/")[0], []).append(name)
        elif metric in SHARES:
            metrics.setdefault(f"shares{bracket}{net}", []).append(name)
        elif DEVIATION not in name:
            metrics[name] = [name]
    return {**metrics, **losses}


def label_of(name: str) -> str:
    """What tells a curve from the others of its panel."""
    return name.removesuffix(GRADIENT_NORM).split("/", 1)[-1].split("[")[0]


def _draw(axis: Any, curves: Mapping[str, Curve], name: str) -> None:
    steps, values = zip(*curves[name], strict=True)
    (line,) = axis.plot(steps, values, linewidth=1.2, marker="." if len(steps) < 30 else None, label=label_of(name))
    deviations = dict(curves.get(name.replace("[", DEVIATION, 1), ())) if "[" in name else {}
    if deviations:
        low = [value - deviations.get(step, 0) for step, value in curves[name]]
        high = [value + deviations.get(step, 0) for step, value in curves[name]]
        axis.fill_between(steps, low, high, alpha=0.2, color=line.get_color())
