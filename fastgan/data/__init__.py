"""Data sets: procedural scenes, folders and zips of images, named real sets, the 1-D Gaussian, and other libraries'.

``load(spec, image_size=...)`` opens any of them by name, by path, or as it is. Only reading image files needs more than
torch and numpy.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from fastgan.data.batch import Batch
from fastgan.data.dataset import ImageDataset, normalize

__all__ = ["Batch", "ImageDataset", "load", "normalize"]

NAMES = ("scenes", "fashion_mnist", "cifar10", "gaussian")


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
        spec: ``scenes``, ``fashion_mnist``, ``cifar10``, ``gaussian``, or the path of a folder or zip of images, or of
            the official ``cifar-10-binary.tar.gz``. A name wins over a folder of that name: write ``./scenes`` for the
            folder. Or a map-style data set, of Hugging Face ``datasets``, torchvision or one's own: its Pillow images
            come at one size then, and what training can read as it is comes back as it is.
        image_size: height and width in pixels; ``gaussian`` is 1 x 1 whatever is asked.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None: as the data is.
        skip_broken: leave unreadable images out with a warning, instead of refusing the data.
        size: how many scenes or numbers to make; of a stored set, a seeded random subset of at most so many images.
        split: ``train`` or ``test`` (of one's own images: top folders of those names); ``scenes``: ``held_out`` too.
        seed: of procedural images and subsets.

    Raises:
        FileNotFoundError: the path, or the files of a named set, are not there.
        ValueError: an argument out of range, no images, or a damaged file.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size takes a positive number of images or None, got {size!r}")
    if not isinstance(spec, (str, os.PathLike)):
        from fastgan.data.foreign import adapt

        return adapt(spec, image_size=image_size, channels=channels)
    spec = os.fspath(spec)
    # the readers are imported here: `import fastgan` pays for none of them
    if spec == "scenes":
        from fastgan.data.scenes import Scenes

        how_many = {} if size is None else {"size": size}
        return Scenes(
            image_size=image_size, channels=3 if channels is None else channels, split=split, seed=seed, **how_many
        )
    if spec == "gaussian":
        from fastgan.data.gaussian import Gaussian

        if channels not in (None, 1):
            raise ValueError(f"channels takes 1 or None for gaussian, got {channels!r}")
        # the splits share the density, not the numbers
        return Gaussian(**({} if size is None else {"size": size}), seed=seed + (split != "train"))
    options = {"image_size": image_size, "channels": channels, "size": size, "split": split, "seed": seed}
    if spec == "fashion_mnist":
        from fastgan.data.named import fashion_mnist

        return fashion_mnist(**options)
    if spec == "cifar10":
        from fastgan.data.named import cifar10

        return cifar10(skip_broken=skip_broken, **options)
    path = Path(spec).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(spec, NAMES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise FileNotFoundError(
            f"data {spec!r} is neither a data set nor a path that exists{hint}: it takes {', '.join(NAMES)}, "
            "or a folder or zip archive of images"
        )
    if path.is_file() and path.name.endswith((".tar.gz", ".tar", ".tgz")):
        from fastgan.data.named import cifar10_binary

        return cifar10_binary(path, **options)
    from fastgan.data.folder import open_images

    return open_images(path, skip_broken=skip_broken, **options)
