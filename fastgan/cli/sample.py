"""`fastgan sample RUN`: draw images, or points, from a trained run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from fastgan.data import load
from fastgan.training.callbacks import POINTS
from fastgan.training.checkpoint import load_state, read_run
from fastgan.training.grid import is_drawn_as_points, save_grid, save_scatter


@dataclass
class SampleOptions:
    """Draw images from a trained run and write them as one grid, or one file each; points as one picture with the
    run's data."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder or checkpoint file"""
    n: int = 64
    """how many images or points"""
    out: Path | None = None
    """PNG to write, with --separate a folder; none: RUN/sample.png, RUN/sample"""
    seed: int = 0
    """of the noise"""
    which: Literal["best", "last"] = "best"
    """best by the run's metric, or the last"""
    ema: bool = True
    """the averaged generator; --no-ema: the last step's"""
    columns: int = 8
    """of the grid"""
    separate: bool = False
    """one PNG an image instead of a grid"""
    batch_size: int = 64
    """images made at a time"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(SampleOptions, args=argv, prog="fastgan sample")
    if options.n < 1 or options.batch_size < 1:
        raise ValueError(f"n and batch-size take whole numbers from 1, got {options.n} and {options.batch_size}")
    state, file = read_run(options.run, options.which)
    architecture = load_state(state, file, ema=options.ema)
    torch.manual_seed(options.seed)
    sizes = [min(options.batch_size, options.n - start) for start in range(0, options.n, options.batch_size)]
    images = torch.cat([architecture.sample(size) for size in sizes])
    folder = options.run if options.run.is_dir() else options.run.parent
    if is_drawn_as_points(images):
        if options.separate:
            raise ValueError("--separate writes one picture an image; points come in one picture: leave it out")
        print(save_scatter(images, options.out or folder / "sample.png", _points(state["config"]["data"])))
        return
    if not options.separate:
        print(save_grid(images, options.out or folder / "sample.png", options.columns))
        return
    target = options.out or folder / "sample"
    for i, image in enumerate(images):
        save_grid(image[None], target / f"{i:05d}.png", columns=1, gap=0)
    print(f"{target}: {len(images)} images")


def _points(recorded: Mapping[str, Any]) -> torch.Tensor | None:
    """Points of the data that the run recorded; None where it was not opened by a name."""
    if "spec" not in recorded:
        return None
    data = load(recorded["spec"], image_size=1, size=recorded["items"], seed=recorded["seed"])
    return data.batch(range(min(POINTS, len(data))))["image"]
