"""What the commands that analyse a trained run share: its options, its networks, its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastgan.architectures.base import Architecture
from fastgan.data import ImageDataset, load
from fastgan.training.checkpoint import CheckpointError, load_state, read_run
from fastgan.training.options import choose_device

__all__ = ["OpenRun", "RunOptions", "load_images", "open_run"]


@dataclass
class RunOptions:
    run: Annotated[Path, tyro.conf.Positional]
    """run folder or checkpoint file"""
    which: Literal["best", "last"] = "best"
    """best by the run's metric, or the last"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1"""


@dataclass(frozen=True)
class OpenRun:
    """A trained run: its architecture in eval mode, what it recorded, and where."""

    architecture: Architecture
    state: Mapping[str, Any]
    file: Path  # the checkpoint
    folder: Path  # of the run


def open_run(options: RunOptions, *, ema: bool = True) -> OpenRun:
    """The run that ``options`` name, on the device that they name; ``ema``: with the averaged generators."""
    state, file = read_run(options.run, options.which)
    architecture = load_state(state, file, ema=ema).to(choose_device(options.device))
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    return OpenRun(architecture, state, file, folder)


def load_images(run: OpenRun, spec: str | None, split: str, size: int | None) -> ImageDataset:
    """At most ``size`` images of the data ``spec``, by default those that the run was trained on, as it takes them."""
    spec = spec or run.state["config"]["data"].get("spec")
    if spec is None:
        raise CheckpointError(f"{run.folder} was trained on data that it has no path of: give --data")
    config = run.architecture.config
    return load(spec, image_size=config.image_size, channels=config.channels, split=split, size=size)
