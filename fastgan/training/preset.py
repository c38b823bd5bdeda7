"""A data set and an architecture that fit each other: what a preset, or the command line, asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from fastgan import registry
from fastgan._words import did_you_mean
from fastgan.architectures.base import Architecture, Preset
from fastgan.training.options import open_data

__all__ = ["from_data", "get_preset", "prepare"]

# fields of Config that the data decide where nobody else does
FROM_DATA = ("channels", "num_classes")


def get_preset(cls: type[Architecture], name: str) -> Preset:
    """The preset of ``cls`` called ``name``; an unknown one raises ValueError with the nearest."""
    if name not in cls.presets:
        known = f"it has {', '.join(cls.presets)}" if cls.presets else "it has none"
        raise ValueError(f"{cls.name} has no preset {name!r}{did_you_mean(name, cls.presets)} ({known})")
    return cls.presets[name]


def prepare(
    cls: type[Architecture],
    data: Any,
    model: Mapping[str, Any],
    *,
    seed: int,
    size: int | None = None,
    skip_broken: bool = False,
) -> tuple[Architecture, Any]:
    """An architecture ``cls`` with the options ``model``, of the data's size and channels, and the data it is for.

    Args:
        cls: the architecture's class.
        data: what ``fastgan.data.load`` takes.
        model: fields of ``cls.Config``; ``channels`` and ``num_classes`` are the data's where it does not have them.
        seed: of the data where they are drawn, and of the weights.
        size: at most so many images.
        skip_broken: leave images that cannot be read out.
    """
    fields = {f.name: f for f in dataclasses.fields(cls.Config)}
    image_size = model.get("image_size", fields["image_size"].default)
    dataset = open_data(
        data, image_size=image_size, channels=model.get("channels"), skip_broken=skip_broken, size=size, seed=seed
    )
    torch.manual_seed(seed)
    return cls(registry.configure(cls, {**from_data(cls, dataset), **model, "image_size": dataset.image_size})), dataset


def from_data(cls: type[Architecture], dataset: Any) -> dict[str, Any]:
    """What the data say of ``FROM_DATA``, for a ``cls.Config`` that has these fields."""
    found = {"channels": dataset.channels}
    if getattr(dataset, "classes", None) is not None:
        found["num_classes"] = len(dataset.classes)
    fields = {f.name for f in dataclasses.fields(cls.Config)}
    return {name: value for name, value in found.items() if name in fields}
