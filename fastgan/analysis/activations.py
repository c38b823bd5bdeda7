"""What a discriminator's convolutions make of images: activated outputs, for any network with convolutions in it.

A convolution's activated output is the result of the first activation that runs after it and before the next
convolution, batch norm between the two included, or the convolution's own result where none does. Modules and functions
(``nn.ReLU``, ``F.relu``) are seen alike, since calls are watched and not modules. Activations that are known:
ACTIVATIONS.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fastgan.architectures.base import Architecture
from fastgan.data.dataset import ImageDataset, normalize
from fastgan.nn.fuse import unfuse
from fastgan.training import rng
from fastgan.training.options import name_of

__all__ = [
    "ACTIVATIONS",
    "GRID",
    "Watch",
    "discriminator",
    "feature_maps",
    "image_batches",
    "large_enough",
    "run",
    "untrained",
]

CONVOLUTIONS = {"conv2d", "conv_transpose2d"}
RECTIFIERS = {
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "rrelu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
}
ACTIVATIONS = RECTIFIERS | {"tanh", "sigmoid", "hardtanh"}
GRID = 4  # maps of less than GRID x GRID are no features here: DCGAN's paper pools every layer to this grid


class Watch(TorchFunctionMode):
    """Inside ``with Watch() as watch``: ``watch.maps`` are the activated outputs of the convolutions that have run.

    Args:
        gradient: of every rectifier's output, what is put in the place of the gradient that arrives there.
    """

    def __init__(self, gradient: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.maps: list[torch.Tensor] = []
        self._gradient = gradient
        self._raw = False  # whether the last map is still to be activated

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").rstrip("_")
        if name in CONVOLUTIONS:
            self.maps.append(result)
            self._raw = True
        elif name in ACTIVATIONS:
            if self._raw:
                self.maps[-1] = result
                self._raw = False
            if self._gradient is not None and name in RECTIFIERS and result.requires_grad:
                result.register_hook(self._gradient)
        return result


def feature_maps(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Activated outputs (N, C_l, H_l, W_l) of the convolutions that give maps of at least 4x4, in the order in which
    they run.

    Args:
        network: takes ``images`` alone; not fused (``discriminator`` gives such copies).
        images: (N, C, H, W) in [-1, 1].

    Raises:
        ValueError: no such convolution, or images that the network does not take.
    """
    return large_enough(run(network, images, Watch()))


def run(network: nn.Module, images: torch.Tensor, watch: Watch) -> list[torch.Tensor]:
    """``watch.maps`` of the network's convolutions; ``ValueError`` where it does not take such images."""
    try:
        with watch:
            network(images)
    except RuntimeError as error:
        shape = "x".join(map(str, images.shape[1:]))
        raise ValueError(
            f"this discriminator does not take images of {shape} alone ({error}): where a model has several, name "
            "another, else choose another run"
        ) from error
    return watch.maps


def large_enough(maps: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Those of at least 4x4; ``ValueError`` where there is none."""
    kept = [m for m in maps if m.dim() == 4 and min(m.shape[2:]) >= GRID]
    if not kept:
        raise ValueError(
            f"this discriminator has no convolution with a result of at least {GRID}x{GRID}: its features are taken "
            "from convolutions, so choose a run of a convolutional model"
        )
    return kept


def discriminator(architecture: Architecture, name: str | None = None) -> nn.Module:
    """A copy, in eval mode and not fused, of the architecture's discriminator (or critic), the first where it has
    several.

    Args:
        architecture: it is left as it is.
        name: one of ``architecture.discriminators``.

    Raises:
        ValueError: the architecture has none, none of that name, or one that takes more than a picture.
    """
    names, model = tuple(architecture.discriminators), name_of(architecture)
    if not names:
        raise ValueError(f"{model} has no discriminator to look into: choose a run of a model that has one")
    if name is not None and name not in names:
        raise ValueError(f"{model} has no discriminator {name!r}; it has {', '.join(names)}")
    network = architecture.get_submodule(name or names[0])
    taken = inspect.signature(network.forward).parameters.values()
    if more := [p.name for p in taken if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD][1:]:
        raise ValueError(
            f"the discriminator of {model} takes {' and '.join(more)} besides the picture: its features would be told "
            "what a probe is to find out; choose a run of a model whose discriminator takes pictures alone"
        )
    return unfuse(copy.deepcopy(network)).eval()


def untrained(architecture: Architecture, seed: int, name: str | None = None) -> nn.Module:
    """``discriminator(architecture, name)`` with weights drawn anew, as the architecture draws them.

    The seed of a run gives the weights that it began with.
    """
    with rng.isolated(seed):
        fresh = type(architecture)(architecture.config)
    return discriminator(fresh, name).to(architecture.device)


def image_batches(
    dataset: ImageDataset, rows: torch.Tensor | None = None, device: torch.device | str = "cpu"
) -> Iterator[torch.Tensor]:
    """Images (N, C, H, W) in [-1, 1] of ``dataset``, all or those at ``rows``, 256 at a time."""
    rows = torch.arange(len(dataset)) if rows is None else rows
    for part in rows.split(256):
        yield normalize(dataset.batch(part)["image"]).to(device)
