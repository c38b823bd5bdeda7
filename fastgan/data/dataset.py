"""ImageDataset: what every data set is, and the one cache behind all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fastgan.data.cache import CacheFile
from fastgan.data.text import encode_captions

__all__ = ["ImageDataset", "normalize"]

MAX_CACHE_BYTES = 2 << 30


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Images as a GAN takes them: uint8 0..255 becomes float32 in [-1, 1]; floating images pass through.

    Args:
        images: any shape, uint8 or floating.
    """
    if images.is_floating_point():
        return images
    if images.dtype != torch.uint8:
        raise TypeError(f"images takes a uint8 or floating tensor, got {images.dtype}")
    return images.to(torch.float32).div_(127.5).sub_(1.0)


class ImageDataset:
    """A map-style data set of images of one size.

    ``ds[i]`` is ``{"image": (C, H, W) uint8, "index": int64}``, with ``label`` where there are classes and ``text``
    where there are captions, and ``ds.batch(indices)`` is the same with a leading batch dimension, without a Python
    step per cached image. An image is decoded the first time it is asked for and kept in one uint8 array; images beyond
    ``max_cache_bytes`` are decoded at every use. Items are the same at every call.

    A subclass calls ``__init__`` and defines ``_decode(indices)``.

    Args:
        name: short name, for messages and run directories.
        count: number of images.
        image_size: height and width in pixels.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        labels: (count,) int64 class indices, -1 for unlabelled, or None.
        classes: a name for each class, or None.
        captions: a sentence for each image, or None.
        origin: the rest of ``describe()``: native size, where the images come from.
        max_cache_bytes: bound of the decoded cache.
    """

    draws_random = False  # a promise to whoever reads ahead

    def __init__(
        self,
        name: str,
        count: int,
        *,
        image_size: int,
        channels: int,
        labels: torch.Tensor | None = None,
        classes: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
        origin: str = "",
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        if count < 1:
            raise ValueError(f"data set {name!r} is empty: it takes at least one image")
        self.name = name
        self.image_size = image_size
        self.channels = channels
        self.classes = tuple(classes) if classes is not None else None
        self.labels = labels
        self.captions = captions
        self.origin = origin
        self._count = count
        row_bytes = channels * image_size * image_size
        cached = min(count, max(0, max_cache_bytes) // row_bytes)
        # np.empty commits no memory until a page is written: an unused cache costs nothing. numpy, not torch, because
        # gathering a batch is too short to start threads for, and theirs wait for training's.
        self._cache = np.empty((cached, channels, image_size, image_size), np.uint8)
        self._filled = np.zeros(cached, bool)
        self._mapped: CacheFile | None = None  # the file that ``_cache`` is, where it is none in memory

    def _decode(self, indices: list[int]) -> torch.Tensor:
        """Images (len(indices), C, H, W) uint8, made or read anew."""
        raise NotImplementedError(f"{type(self).__name__} does not define _decode()")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # IndexError is what ends `for item in dataset`
        if not -self._count <= index < self._count:
            raise IndexError(f"index {index} is out of range for data set {self.name!r} of {self._count} images")
        row = self.batch(torch.tensor([index % self._count]))
        return {field: value[0] for field, value in row.items()}

    def batch(self, indices: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor]:
        """The images at ``indices`` (N,), each in [0, len): tensors that the caller owns.

        Returns:
            ``image`` (N, C, H, W) uint8, ``index`` (N,) int64, ``label`` (N,) int64 where the set has classes, and
            ``text`` (N, TEXT_LENGTH) int64 (``fastgan.data.text``) where it has captions.
        """
        indices = torch.as_tensor(indices, dtype=torch.int64).cpu()
        if indices.ndim != 1:
            raise ValueError(f"indices takes a 1-D tensor, got shape {tuple(indices.shape)}")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self._count:
            raise IndexError(
                f"indices takes values in [0, {self._count}), got {int(indices.min())}..{int(indices.max())}"
            )
        fields = {"image": self._images(indices.numpy()), "index": indices}
        if self.labels is not None:
            fields["label"] = self.labels[indices]
        if self.captions is not None:
            fields["text"] = encode_captions([self.captions[i] for i in indices.tolist()])
        return fields

    def caption(self, index: int) -> str:
        """The sentence about image ``index``."""
        if self.captions is None:
            raise ValueError(f"data set {self.name!r} has no captions")
        return self.captions[index]

    def _images(self, indices: np.ndarray) -> torch.Tensor:
        cacheable = indices < len(self._cache)
        wanted = indices[cacheable]
        missing = np.unique(wanted[~self._filled[wanted]])
        if len(missing):
            self._cache[missing] = self._decode(missing.tolist()).numpy()
            self._filled[missing] = True
        if len(wanted) == len(indices):
            return torch.from_numpy(self._cache[indices])
        images = np.empty((len(indices), *self._cache.shape[1:]), np.uint8)
        images[cacheable] = self._cache[wanted]
        images[~cacheable] = self._decode(indices[~cacheable].tolist()).numpy()
        return torch.from_numpy(images)

    def describe(self) -> str:
        """One line for people: name, how many, classes, shape, and where the images come from."""
        classes = f", {len(self.classes)} classes" if self.classes else ""
        shape = f"{self.channels}x{self.image_size}x{self.image_size}"
        return f"{self.name}: {self._count} images{classes}, {shape}" + (f", {self.origin}" if self.origin else "")

    def __getstate__(self) -> dict:
        # A loader's worker processes fill caches of their own, or map the same file: sending one would copy gigabytes.
        state = self.__dict__.copy()
        del state["_cache"]
        return state | {"_cache_shape": self._cache.shape, "_filled": np.zeros_like(self._filled)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        shape = self.__dict__.pop("_cache_shape")
        if self._mapped is not None and (found := self._mapped.read()) is not None:
            self._cache, _ = found
            self._filled[:] = True
        else:
            self._cache = np.empty(shape, np.uint8)
