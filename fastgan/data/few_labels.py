"""A data set of which only a few images keep their label: what semi-supervised models learn from."""

from __future__ import annotations

import numpy as np
import torch

from fastgan.data.dataset import ImageDataset

__all__ = ["FewLabels", "choose_labelled"]


class FewLabels(ImageDataset):
    """A view of ``dataset`` for semi-supervised learning, twice as long as it.

    Item 2 i is its image i with label -1, the kept ones among them, and items 1, 3, 5, ... are the images that keep
    their label, over and over: a random batch is labelled by half. Where labels are as many as images are, that is
    every image once without and once with its label.

    Args:
        dataset: a data set with classes.
        count: how many images keep their label, equally many of every class.
        seed: of the choice.

    Attributes:
        labelled: (count,) int64, the positions in ``dataset`` of the images that keep their label.
        distinct: (len(dataset),) int64, the items that are every image of ``dataset`` once.

    Raises:
        ValueError: a data set without classes, or a count that its classes cannot share equally.
    """

    def __init__(self, dataset: ImageDataset, count: int, *, seed: int = 0) -> None:
        if dataset.labels is None or dataset.classes is None:
            raise ValueError(f"data set {dataset.name!r} has no classes, of which some images could keep their label")
        self.dataset = dataset
        self.labelled = choose_labelled(dataset, count, seed)
        images = torch.arange(len(dataset))
        self._rows = torch.stack([images, self.labelled[images % count]], 1).flatten()
        kept = dataset.labels[self.labelled]
        super().__init__(
            f"{dataset.name}{'&' if '?' in dataset.name else '?'}labels={count}",
            2 * len(dataset),
            image_size=dataset.image_size,
            channels=dataset.channels,
            labels=torch.stack([torch.full_like(images, -1), kept[images % count]], 1).flatten(),
            classes=dataset.classes,
            origin=f"{count} of {len(dataset)} labels kept, {dataset.origin}",
            max_cache_bytes=0,  # that of ``dataset`` serves both halves
        )
        self.distinct = 2 * images

    def _images(self, indices: np.ndarray) -> torch.Tensor:
        return self.dataset.batch(self._rows[torch.from_numpy(indices)])["image"]


def choose_labelled(dataset: ImageDataset, count: int, seed: int) -> torch.Tensor:
    """Sorted positions (count,) of a seeded random choice with equally many images of every class."""
    classes = len(dataset.classes)
    if count < 1 or count % classes:
        raise ValueError(f"labels takes a multiple of the {classes} classes of {dataset.name}, got {count}")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(dataset), generator=generator)
    chosen = []
    for label, name in enumerate(dataset.classes):
        of_class = shuffled[dataset.labels[shuffled] == label]
        if len(of_class) < count // classes:
            raise ValueError(
                f"labels={count} is {count // classes} of every class, but {dataset.name} has {len(of_class)} of {name}"
            )
        chosen.append(of_class[: count // classes])
    return torch.cat(chosen).sort().values
