"""`fastgan sample RUN`: draw images, or points, from a trained run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from fastgan.analysis.latent import labels_for
from fastgan.cli._run import OpenRun, RunOptions, load_images, open_run
from fastgan.data import Batch, load
from fastgan.training.callbacks import POINTS
from fastgan.training.grid import is_drawn_as_points, save_grid, save_scatter
from fastgan.training.measuring import sampler
from fastgan.training.options import name_of


@dataclass
class SampleOptions(RunOptions):
    """Draw images from a trained run and write them as one grid, or one file each; points as one picture with the
    run's data. A model of class labels draws the classes in turn; one that is given images gets random ones of its
    data."""

    n: int = 64
    """how many images or points"""
    label: int | None = None
    """the class to draw, of a model of class labels; none: all of them in turn"""
    data: str | None = None
    """name or path of the images that an image-to-image model is given; none: the run's"""
    split: str = "train"
    """of that data: train or test"""
    out: Path | None = None
    """PNG to write, with --separate a folder; none: RUN/sample.png, RUN/sample"""
    seed: int = 0
    """of the noise"""
    ema: bool = True
    """the averaged generator; --no-ema: the last step's"""
    columns: int | None = None
    """of the grid; none: 8, or one a class"""
    separate: bool = False
    """one PNG an image instead of a grid"""
    batch_size: int = 64
    """images made at a time"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(SampleOptions, args=argv, prog="fastgan sample")
    if options.n < 1 or options.batch_size < 1:
        raise ValueError(f"n and batch-size take whole numbers from 1, got {options.n} and {options.batch_size}")
    run = open_run(options, ema=options.ema)
    images = _draw(run, options)
    if is_drawn_as_points(images):
        if options.separate:
            raise ValueError("--separate writes one picture an image; points come in one picture: leave it out")
        data = _points(run.state["config"]["data"])
        print(save_scatter(images, options.out or run.folder / "sample.png", data))
        return
    if not options.separate:
        print(save_grid(images, options.out or run.folder / "sample.png", options.columns or _columns(run, options)))
        return
    target = options.out or run.folder / "sample"
    for i, image in enumerate(images):
        save_grid(image[None], target / f"{i:05d}.png", columns=1, gap=0)
    print(f"{target}: {len(images)} images")


@torch.no_grad()
def _draw(run: OpenRun, options: SampleOptions) -> torch.Tensor:
    """``n`` images or points on the CPU."""
    architecture = run.architecture.eval()
    if not architecture.generators:
        raise ValueError(f"{name_of(architecture)} is a classifier: there is nothing to draw")
    parts = torch.arange(options.n).split(options.batch_size)
    if tuple(architecture.conditions) == ("label",):
        labels = labels_for(architecture, options.label, options.n)
        torch.manual_seed(options.seed)
        drawn = [architecture.generate(Batch(label=labels[part])) for part in parts]
    else:
        if options.label is not None:
            raise ValueError(f"{name_of(architecture)} draws no images of a class: leave --label out")
        data = load_images(run, options.data, options.split, None) if architecture.conditions else None
        generate = sampler(architecture, data)
        torch.manual_seed(options.seed)
        drawn = [generate(len(part)) for part in parts]
    return torch.cat(drawn).cpu()


def _columns(run: OpenRun, options: SampleOptions) -> int:
    """A column for each class where classes are drawn in turn."""
    in_turn = tuple(run.architecture.conditions) == ("label",) and options.label is None
    return run.architecture.config.num_classes if in_turn else 8


def _points(recorded: Mapping[str, Any]) -> torch.Tensor | None:
    """Points of the data that the run recorded; None where it was not opened by a name."""
    if "spec" not in recorded:
        return None
    data = load(recorded["spec"], image_size=1, size=recorded["items"], seed=recorded["seed"])
    return data.batch(range(min(POINTS, len(data))))["image"]
