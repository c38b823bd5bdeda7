"""`fastgan probe RUN`: a linear classifier on the features of a trained run's discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import tyro

from fastgan.analysis.probe import probe_all
from fastgan.cli._run import RunOptions, load_images, open_run
from fastgan.training.options import check_count
from fastgan.training.run_folder import RunFolder

PROBES = "probe.jsonl"
ROWS = {
    "trained": "the run's discriminator",
    "untrained": "the same network, random weights",
    "pixels": "raw pixels",
}


@dataclass
class ProbeOptions(RunOptions):
    """Classify images by a linear SVM on the discriminator's features (activations of all convolutions, max-pooled to
    4x4), on those of an untrained discriminator and on raw pixels. Prints a table and appends it to RUN/probe.jsonl."""

    data: str | None = None
    """labelled images; none: what the run was trained on"""
    images: int = 10_000
    """at most so many images of the split train"""
    test_images: int = 10_000
    """at most so many images of the split test"""
    discriminator: str | None = None
    """which, where the model has several; none: the first"""
    seed: int = 0
    """of the untrained weights, and of the images held out to choose the penalty"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(ProbeOptions, args=argv, prog="fastgan probe")
    for name, least in (("images", 10), ("test_images", 1), ("seed", 0)):
        check_count(name, getattr(options, name), least)
    opened = open_run(options)
    train = load_images(opened, options.data, "train", options.images)
    test = load_images(opened, options.data, "test", options.test_images)
    found = probe_all(opened.architecture, train, test, options.seed, options.discriminator)
    print(f"run       step {opened.state['step']} ({opened.file.name}), seed {options.seed}")
    print(f"fitted to {train.describe()}\ntested on {test.describe()}\n")
    for what, about in ROWS.items():
        result = found[what]
        error = (result.accuracy * (1 - result.accuracy) / result.test_images) ** 0.5
        print(
            f"  {about:<34} {result.accuracy:.1%} +- {error:.1%}   {result.dim} features, penalty {result.penalty:g} "
            f"(held out {result.held_out:.1%})"
        )
    record = {
        "checkpoint": opened.file.name,
        "step": opened.state["step"],
        "seed": options.seed,
        "train": train.describe(),
        "test": test.describe(),
        **{what: asdict(result) for what, result in found.items()},
    }
    folder = RunFolder(opened.folder)
    folder.append(record, PROBES)
    print(f"\nappended to {folder.path / PROBES}")
