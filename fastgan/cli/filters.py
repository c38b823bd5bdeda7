"""`fastgan filters RUN`: what the features of a trained run's discriminator look at, by guided backpropagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastgan.analysis.activations import discriminator, untrained
from fastgan.analysis.guided import draw
from fastgan.cli._run import RunOptions, load_images, open_run
from fastgan.training.options import check_count


@dataclass
class FiltersOptions(RunOptions):
    """For channels of one layer of the discriminator: the images that excite them most, and below each image the
    guided gradient: what in it does. On the left an untrained discriminator, on the right the run's.
    Writes RUN/filters.png."""

    layer: int | None = None
    """number of the convolution, from 1; none: the last with a map of at least 4x4"""
    channels: int = 6
    """how many of its channels, the first ones"""
    top: int = 6
    """images of each channel"""
    images: int = 2000
    """at most so many images are searched"""
    data: str | None = None
    """images; none: what the run was trained on"""
    split: str = "train"
    """of the images"""
    discriminator: str | None = None
    """which, where the model has several; none: the first"""
    seed: int = 0
    """of the untrained weights"""
    out: Path | None = None
    """PNG to write; none: RUN/filters.png"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(FiltersOptions, args=argv, prog="fastgan filters")
    for name, least in (("channels", 1), ("top", 1), ("images", 1), ("seed", 0)):
        check_count(name, getattr(options, name), least)
    check_count("layer", options.layer, 1, optional=True)
    opened = open_run(options)
    architecture = opened.architecture
    networks = {
        "untrained": untrained(architecture, options.seed, options.discriminator),
        "trained": discriminator(architecture, options.discriminator),
    }
    data = load_images(opened, options.data, options.split, options.images)
    path = options.out or opened.folder / "filters.png"
    print(draw(networks, data, path, layer=options.layer, channels=options.channels, top=options.top))
