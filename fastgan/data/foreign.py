"""Data sets of other libraries as they are: torchvision's, Hugging Face's, and any whose items are Pillow images.

Known by what they offer, so that neither library is imported: an item is a Pillow image, (image, label) as torchvision
has it, or a dict by column as Hugging Face has it. Pillow images become uint8 tensors of one size; what is a tensor
already is passed on. Of a dict's columns these are read:

    image     the column "image", else the first one that holds a picture
    source    the column "source", where it holds a picture: the input of an image-to-image model
    label     the column "label" or "labels", else the first one with class names
    text      the column "caption" or "text", a sentence
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fastgan.data.dataset import MAX_CACHE_BYTES, ImageDataset
from fastgan.data.decode import is_grey, pixels
from fastgan.data.resize import check_channels, check_image_size
from fastgan.data.text import encode_captions

__all__ = ["CachedItems", "PictureItems", "adapt"]


def adapt(dataset: Any, *, image_size: int, channels: int | None = None) -> Any:
    """``dataset``, where training can read it as it is; else one that gives its pictures at one size.

    Where no random transform can be behind an item, pictures are decoded once and kept in memory.

    Raises:
        TypeError: a collection of splits, of which one has to be chosen.
        ValueError: no pictures in a data set of columns.
    """
    if isinstance(dataset, Mapping) and dataset and all(hasattr(part, "column_names") for part in dataset.values()):
        raise TypeError(
            f"data holds the splits {', '.join(map(str, dataset))}: pass one, data[{next(iter(dataset))!r}]"
        )
    columns = hasattr(dataset, "column_names")
    if hasattr(dataset, "batch") and not columns:  # gives whole batches, of tensors (Hugging Face's batch is another)
        return dataset
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        return dataset
    first = dataset[0]
    if not columns and not any(map(_is_picture, _values(first))):
        return dataset
    items = PictureItems(dataset, first, image_size=image_size, channels=channels)
    return CachedItems(items) if _repeatable(dataset) else items


def _values(item: Any) -> list:
    if isinstance(item, Mapping):
        return list(item.values())
    return list(item) if isinstance(item, (tuple, list)) else [item]


def _is_picture(value: Any) -> bool:
    """Whether it is a Pillow image, in whatever file its class is."""
    return any(cls.__module__ == "PIL.Image" for cls in type(value).__mro__)


def _repeatable(dataset: Any) -> bool:
    """Whether an item is known to be the same at every call: torchvision's with no transform, Hugging Face's in its
    own format. Of a data set that nothing is known of, an item may be augmented anew each time."""
    if hasattr(dataset, "transforms") and hasattr(dataset, "transform"):
        return dataset.transforms is None and dataset.transform is None
    return hasattr(dataset, "column_names") and getattr(dataset, "format", {}).get("type") is None


class PictureItems:
    """Map-style: item i of ``dataset`` as {"image": (C, H, W) uint8, ...}, read anew at every call."""

    def __init__(self, dataset: Any, first: Any, *, image_size: int, channels: int | None) -> None:
        check_image_size(image_size)
        check_channels(channels)
        self.dataset = dataset
        self.name = getattr(dataset, "name", "") or type(dataset).__name__
        self.image_size = image_size
        self._columns = _columns(dataset, first) if isinstance(first, Mapping) else None
        fields = self._fields(first)
        picture = fields["image"]
        self.channels = channels or (1 if _is_picture(picture) and is_grey(picture) else 3)
        features = getattr(dataset, "features", None) or {}
        column = (self._columns or {}).get("label")
        classes = getattr(features.get(column), "names", None) if column else getattr(dataset, "classes", None)
        self.classes = tuple(map(str, classes)) if classes else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            item = self.dataset[index]
        except (IndexError, KeyError, StopIteration):
            raise
        except Exception as error:  # the decoder of another library
            raise ValueError(f"item {index} of data {self.name!r} cannot be read: {error}") from error
        fields = self._fields(item)
        for name in ("image", "source"):
            if name in fields and _is_picture(fields[name]):
                fields[name] = pixels(fields[name], self.image_size, self.channels)
        if "text" in fields:
            fields["text"] = encode_captions([fields["text"]])[0]
        if fields.get("label", 0) is None:
            fields["label"] = -1
        return fields

    def _fields(self, item: Any) -> dict[str, Any]:
        if self._columns is not None:
            return {field: item[column] for field, column in self._columns.items()}
        return dict(zip(("image", "label"), _values(item), strict=False))

    def describe(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{self.name}: {len(self)} images{classes}, {self.channels}x{self.image_size}x{self.image_size}"


class CachedItems(ImageDataset):
    """``PictureItems`` that are the same at every call, decoded once; what else an item holds is kept with it."""

    def __init__(self, items: PictureItems, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        self._items = items
        self._rest: list[dict[str, torch.Tensor] | None] = [None] * len(items)  # all but the image
        super().__init__(
            items.name,
            len(items),
            image_size=items.image_size,
            channels=items.channels,
            classes=items.classes,
            max_cache_bytes=max_cache_bytes,
        )

    def _decode(self, indices: list[int]) -> torch.Tensor:
        images = []
        for index in indices:
            fields = self._items[index]
            images.append(fields.pop("image"))
            self._rest[index] = {name: torch.as_tensor(value) for name, value in fields.items()}
        return torch.stack(images)

    def batch(self, indices: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor]:
        fields = super().batch(indices)
        rest = [self._rest[i] for i in fields["index"].tolist()]
        return fields | {name: torch.stack([row[name] for row in rest]) for name in (rest[0] if rest else ())}

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_rest": [None] * len(self)}  # filled with the cache


def _columns(dataset: Any, first: Mapping[str, Any]) -> dict[str, str]:
    """Batch field -> column."""

    def looks(value: Any) -> bool:
        return _is_picture(value) or isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 3

    pictures = [name for name, value in first.items() if looks(value)]
    if not pictures:
        raise ValueError(
            f"data {type(dataset).__name__} has no column of pictures: it has {', '.join(first)}; a column of file "
            "names becomes one by cast_column(name, datasets.Image())"
        )
    columns = {"image": "image" if "image" in pictures else next(n for n in pictures if n != "source")}
    if "source" in pictures:
        columns["source"] = "source"
    features = getattr(dataset, "features", None) or {}
    named = [name for name in first if getattr(features.get(name), "names", None)]
    if labels := [name for name in ("label", "labels") if name in first] or named:
        columns["label"] = labels[0]
    for name in ("caption", "text"):
        if isinstance(first.get(name), str):
            columns.setdefault("text", name)
    return columns
