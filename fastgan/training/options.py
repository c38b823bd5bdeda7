"""What the Trainer's arguments and data must be, and what config.json records of them."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import numpy as np
import torch

from fastgan.architectures.base import Architecture, Stage
from fastgan.data.batch import Batch

__all__ = [
    "check_batch",
    "check_classes",
    "check_count",
    "check_stages",
    "choose_device",
    "describe_architecture",
    "describe_data",
    "environment",
    "load_data",
    "name_of",
    "open_data",
]

log = logging.getLogger("fastgan")


def check_count(name: str, value: Any, least: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{name} is {value!r}; it takes a whole number from {least}" + (", or None" if optional else "")
        )


def check_stages(architecture: Architecture) -> list[Stage]:
    """The architecture's stages, as a list that can be walked."""
    stages, name = list(architecture.stages()), type(architecture).__name__
    if not stages or not all(stage.phases for stage in stages):
        raise ValueError(f"{name}.stages() gives no stage, or one without phases")
    for stage in stages[:-1]:
        if stage.steps is None:
            raise ValueError(f"stage {stage.name!r} of {name} has steps=None; only the last stage may run to the end")
    for stage in stages:
        names = [phase.name for phase in stage.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"stage {stage.name!r} of {name} has two phases of one name: {names}")
    return stages


def choose_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(device)!r}, but this torch sees no GPU: use device='cpu' or 'auto'")
    return device


def load_data(spec: Any, architecture: Architecture, skip_broken: bool) -> Any:
    config = architecture.config
    return open_data(spec, image_size=config.image_size, channels=config.channels, skip_broken=skip_broken)


def open_data(spec: Any, *, seed: int = 0, **options: Any) -> Any:
    """``fastgan.data.load``; of a name or path the arguments are kept, so that the run says how to open it again."""
    from fastgan.data import load

    dataset = load(spec, seed=seed, **options)
    if isinstance(spec, (str, os.PathLike)):
        dataset.loaded_by = {"spec": os.fspath(spec), "seed": seed}
    return dataset


def check_classes(dataset: Any, architecture: Architecture) -> int | None:
    """How many classes the architecture's labels have, None where it reads no labels or any; the data must agree."""
    num_classes = getattr(architecture.config, "num_classes", None)
    if num_classes is None or "label" not in (*architecture.needs, *architecture.conditions):
        return None
    classes = getattr(dataset, "classes", None)
    if classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"the data has {len(classes)} classes and {name_of(architecture)} num_classes={num_classes}: create it "
            f"with num_classes={len(classes)}, or choose other data"
        )
    return num_classes


def check_batch(batch: Batch, architecture: Architecture) -> None:
    """The first batch against what the architecture reads."""
    name = name_of(architecture)
    if missing := batch.missing(architecture.needs):
        given = ", ".join(f.name for f in dataclasses.fields(batch) if getattr(batch, f.name) is not None)
        raise ValueError(
            f"{name} needs {missing[0]!r} in every batch; the data gives only {given}: add {missing[0]!r} to what the "
            "data set's __getitem__ returns, or choose other data"
        )
    image = batch.image
    if image is None or image.dim() < 4 or max(image.shape[2:]) < 2:  # no pictures: data points are not bounded
        return
    low, high = image.min().item(), image.max().item()
    if not (low >= -1.01 and high <= 1.01):
        raise ValueError(f"the data's images lie in [{low:.3g}, {high:.3g}]; floats take [-1, 1], bytes 0..255 uint8")
    if low >= 0 and high > low:
        log.warning(
            "the first images lie in [%.3g, %.3g], but images take [-1, 1]: if yours are in [0, 1], give 2 * x - 1",
            low,
            high,
        )


# -- what config.json records ------------------------------------------------------------------------------------------


def name_of(thing: Any) -> str:
    return getattr(thing, "name", "") or getattr(thing, "__name__", "") or type(thing).__name__


def describe_architecture(architecture: Architecture) -> dict[str, Any]:
    cls, config = type(architecture), architecture.config
    options = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(vars(config))
    return {"name": architecture.name, "class": f"{cls.__module__}.{cls.__qualname__}", "config": options}


def describe_data(dataset: Any) -> dict[str, Any]:
    items = len(getattr(dataset, "distinct", dataset))  # of a view that repeats images: how many there are
    described = {"name": name_of(dataset), "items": items, **getattr(dataset, "loaded_by", {})}
    if hasattr(dataset, "describe"):
        described["description"] = dataset.describe()
    return described


def environment(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on."""
    from fastgan import __version__
    from fastgan.ops import _dispatch, _library

    return {
        "fastgan": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "implementation": _dispatch.current(),
        "extension": _library.LOADED,
    }
