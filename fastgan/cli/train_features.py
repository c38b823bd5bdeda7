"""`fastgan train-features`: train a small classifier on labelled images, for metrics to measure in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastgan.data import load
from fastgan.metrics.classifier import accuracy, save_classifier, train_classifier


@dataclass
class TrainFeaturesOptions:
    """Train a small classifier and write it as a feature net: `fastgan evaluate RUN --features FILE`, and
    `fastgan train NAME --metric-features FILE`. Two trainings give two nets, which results tell apart by name."""

    data: str = "fashion_mnist"
    """a labelled data set, as `fastgan train` takes it"""
    out: Path | None = None
    """file to write; none: runs/features/DATA.safetensors"""
    image_size: int = 28
    """height and width in pixels at which it looks at images"""
    channels: int | None = None
    """1 grey or 3 colour; none: as the data is"""
    epochs: int = 5
    """passes over the data"""
    batch_size: int = 128
    """images a batch"""
    limit: int | None = None
    """use at most so many images of the data"""
    seed: int = 0
    """of weights and order"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(TrainFeaturesOptions, args=argv, prog="fastgan train-features")
    shape = {"image_size": options.image_size, "channels": options.channels, "size": options.limit}
    train, test = (load(options.data, split=split, **shape) for split in ("train", "test"))
    net = train_classifier(train, epochs=options.epochs, batch_size=options.batch_size, seed=options.seed)
    name = f"{Path(options.data).stem}.safetensors"
    path = save_classifier(net, options.out or Path("runs") / "features" / name)
    print(f"net       {net.name}, {net.num_classes} classes, {net.dim} features")
    print(f"accuracy  {accuracy(net, test):.1%} of {len(test)} test images")
    print(f"file      {path}")
