"""`fastgan report RUN`: a run as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.training.report import write_report


@dataclass
class ReportOptions:
    """Write one HTML page that needs nothing else: losses, metrics, samples over time, best checkpoint, evaluations,
    options, environment; also while the run trains."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    out: Path | None = None
    """page to write; none: RUN/report.html"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(ReportOptions, args=argv, prog="fastgan report")
    print(write_report(options.run, options.out))
