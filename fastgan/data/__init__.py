"""Data sets: procedural scenes, folders and zips of images, named real sets, Gaussians, and other libraries'.

``load(spec, image_size=...)`` opens any of them by name, by path, or as it is. Only reading image files needs more than
torch and numpy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastgan._words import did_you_mean
from fastgan.data.batch import Batch
from fastgan.data.dataset import ImageDataset, normalize
from fastgan.data.query import read_query

__all__ = ["Batch", "ImageDataset", "load", "normalize"]

# by name, what a query may ask of it
QUERIES: dict[str, tuple[str, ...]] = {
    "scenes": ("label", "vary", "labels"),
    "fashion_mnist": ("labels",),
    "mnist_5k": ("labels",),
    "cifar10": ("labels",),
    "gaussians_8": ("labels",),
    "gaussians_25": ("labels",),
    "gaussian": (),
}


def load(
    spec: Any,
    *,
    image_size: int = 64,
    channels: int | None = None,
    skip_broken: bool = False,
    size: int | None = None,
    split: str = "train",
    seed: int = 0,
) -> Any:
    """Open a data set by name, by path, or one of another library.

    Args:
        spec: ``scenes``, ``fashion_mnist``, ``mnist_5k``, ``cifar10``, ``gaussians_8``, ``gaussians_25``, ``gaussian``,
            or the path of a folder or zip of images, or of the official ``cifar-10-binary.tar.gz``. A name wins over a
            folder of that name: write ``./scenes`` for the folder. What may follow it after a question mark is in
            ``fastgan.data.query``. Or a map-style data set, of Hugging Face ``datasets``, torchvision or one's own: its
            Pillow images come at one size then, and what training can read as it is comes back as it is.
        image_size: height and width in pixels; Gaussians are 1 x 1 whatever is asked.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None: as the data is.
        skip_broken: leave unreadable images out with a warning, instead of refusing the data.
        size: how many scenes or points to make; of a stored set, a seeded random subset of at most so many images.
        split: ``train`` or ``test`` (of one's own images: top folders of those names); ``scenes``: ``held_out`` too.
        seed: of procedural images, of subsets, and of which labels are kept.

    Raises:
        FileNotFoundError: the path, or the files of a named set, are not there.
        ValueError: an argument or query out of range, no images, or a damaged file.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size takes a positive number of images or None, got {size!r}")
    if not isinstance(spec, (str, os.PathLike)):
        from fastgan.data.foreign import adapt

        return adapt(spec, image_size=image_size, channels=channels)
    spec = os.fspath(spec)
    name, mark, query = spec.partition("?")
    if name not in QUERIES and Path(spec).expanduser().exists():
        name, mark = spec, ""  # a path may hold a question mark
    asked = read_query(name, query, QUERIES.get(name, ("labels",))) if mark else {}
    options = {"image_size": image_size, "channels": channels, "size": size, "split": split, "seed": seed}
    # the readers are imported where they are needed: `import fastgan` pays for none of them
    if name == "scenes":
        dataset = _scenes(asked, **options)
    elif name in ("gaussians_8", "gaussians_25", "gaussian"):
        dataset = _gaussians(name, **options)
    elif name == "fashion_mnist":
        from fastgan.data.named import fashion_mnist

        dataset = fashion_mnist(**options)
    elif name == "mnist_5k":
        from fastgan.data.named import mnist_5k

        dataset = mnist_5k(**options)
    elif name == "cifar10":
        from fastgan.data.named import cifar10

        dataset = cifar10(skip_broken=skip_broken, **options)
    else:
        dataset = _at_path(name, skip_broken, **options)
    if "labels" not in asked:
        return dataset
    from fastgan.data.few_labels import FewLabels

    if not asked["labels"].isdecimal():
        raise ValueError(f"labels takes a number of images that keep their label, got {asked['labels']!r}")
    return FewLabels(dataset, int(asked["labels"]), seed=seed)


def _scenes(asked: dict[str, str], *, size: int | None, channels: int | None, **options: Any) -> ImageDataset:
    from fastgan.data.scenes import Scenes

    if size is not None:
        options["size"] = size
    if "label" in asked:
        options["label"] = asked["label"]
    if "vary" in asked:
        options["vary"] = asked["vary"].split(",")
    return Scenes(channels=3 if channels is None else channels, **options)


def _gaussians(
    name: str, *, image_size: int, channels: int | None, size: int | None, split: str, seed: int
) -> ImageDataset:
    from fastgan.data import gaussian

    dimensions = 1 if name == "gaussian" else 2
    if channels not in (None, dimensions):
        raise ValueError(f"channels takes {dimensions} or None for {name}, got {channels!r}")
    how_many = {} if size is None else {"size": size}
    if name == "gaussian":
        # the splits share the density, not the numbers
        return gaussian.Gaussian(**how_many, seed=seed + (split != "train"))
    if split not in ("train", "test"):
        raise ValueError(f"split takes 'train' or 'test', got {split!r}")
    make = gaussian.ring_of_gaussians if name == "gaussians_8" else gaussian.grid_of_gaussians
    return make(**how_many, seed=2 * seed + (split == "test"))


def _at_path(spec: str, skip_broken: bool, **options: Any) -> ImageDataset:
    path = Path(spec).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"data takes {', '.join(QUERIES)}, or a folder or zip archive of images, and {spec!r} is neither a data "
            f"set nor a path that exists{did_you_mean(spec, QUERIES)}"
        )
    if path.is_file() and path.name.endswith((".tar.gz", ".tar", ".tgz")):
        from fastgan.data.named import cifar10_binary

        return cifar10_binary(path, **options)
    from fastgan.data.folder import open_images

    return open_images(path, skip_broken=skip_broken, **options)
