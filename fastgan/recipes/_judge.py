"""Judges of samples: classifiers trained on real images alone, of another shape and seed than any network in a loss."""

from __future__ import annotations

from pathlib import Path

from fastgan.data import load
from fastgan.metrics.classifier import ClassifierFeatures, accuracy, load_classifier, save_classifier, train_classifier

__all__ = ["classifier"]

SEED = 1234  # of no recipe


def classifier(data: str, out: Path, *, image_size: int, epochs: int = 3) -> tuple[ClassifierFeatures, float]:
    """A classifier of ``data``'s classes and its accuracy on the test split.

    It is trained once and kept beside the recipes' folders (``out`` is a seed's folder), so that all seeds and recipes
    are judged by the same one.

    Args:
        data: a data set by name, with labels and the splits train and test.
        out: the folder that ``measure`` is given.
        image_size: of the images it is trained on; others are resized to it.
        epochs: over the training split.
    """
    file = out.parents[1] / "judges" / f"{data}-{image_size}px-{epochs}-epochs.safetensors"
    if file.exists():
        net = load_classifier(file)
    else:
        net = train_classifier(load(data, image_size=image_size), epochs=epochs, seed=SEED)
        save_classifier(net, file)
    return net, accuracy(net, load(data, image_size=image_size, split="test"))
