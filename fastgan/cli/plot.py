"""`fastgan plot RUN`: metrics and losses of a run over its steps, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.training.progress_plot import read_curves, save_progress_plot
from fastgan.training.run_folder import RunFolder


@dataclass
class PlotOptions:
    """Draw the metrics and losses of a run over its steps; also while it trains."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    out: Path | None = None
    """PNG to write; none: RUN/progress.png"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(PlotOptions, args=argv, prog="fastgan plot")
    curves = read_curves(RunFolder(options.run).metrics_file)
    print(save_progress_plot(curves, options.out or options.run / "progress.png", title=str(options.run)))
