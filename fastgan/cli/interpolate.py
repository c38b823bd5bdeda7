"""`fastgan interpolate RUN`: walks between latent points, as a picture and as a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from fastgan.analysis import interpolation, latent
from fastgan.analysis.pictures import enlarge, save_gif
from fastgan.cli._run import RunOptions, open_run
from fastgan.training.grid import save_grid
from fastgan.training.options import check_count


@dataclass
class InterpolateOptions(RunOptions):
    """Walk between latent points. RUN/interpolation.png: in every row the images from one point to another.
    RUN/interpolation.gif: the same walks side by side, gone on through a third point and back to the first."""

    n: int = 8
    """how many walks: rows of the picture"""
    steps: int = 10
    """images of a row, both ends among them"""
    along: Literal["spherical", "linear"] = "spherical"
    """great circles, or straight lines"""
    points: int = 3
    """latent points that a walk of the GIF goes through; 2: there and back"""
    frames: int = 16
    """of the GIF, from one point to the next"""
    label: int | None = None
    """of a model with labels: the class of all rows; none: the classes in turn, one a row"""
    seed: int = 0
    """of the latent points"""
    ema: bool = True
    """the averaged generator; --no-ema: the last step's"""
    out: Path | None = None
    """folder to write to; none: RUN"""
    batch_size: int = 64
    """images made at a time"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(InterpolateOptions, args=argv, prog="fastgan interpolate")
    for name, least in (("n", 1), ("steps", 2), ("points", 2), ("frames", 1), ("batch_size", 1), ("seed", 0)):
        check_count(name, getattr(options, name), least)
    opened = open_run(options, ema=options.ema)
    architecture, folder = opened.architecture, options.out or opened.folder
    path = getattr(interpolation, options.along)
    labels = latent.labels_for(architecture, options.label, options.n)
    z = latent.draw(architecture, options.points * options.n, options.seed).unflatten(0, (options.points, options.n))

    def images(steps: torch.Tensor) -> torch.Tensor:
        """(T, n, z_dim) to (T, n, C, H, W)."""
        repeated = None if labels is None else labels.repeat(len(steps))
        made = latent.generate(architecture, steps.flatten(0, 1), repeated, options.batch_size)
        return made.unflatten(0, (len(steps), options.n))

    rows = images(path(z[0], z[1], torch.linspace(0, 1, options.steps, device=z.device))).transpose(0, 1)
    print(save_grid(rows.flatten(0, 1), folder / "interpolation.png", columns=options.steps))
    frames = [enlarge(frame, 64) for frame in images(interpolation.walk(z, options.frames, path))]
    print(save_gif(frames, folder / "interpolation.gif", columns=4))
