"""DiffAugment: Zhao, Liu, Lin, Zhu, Han, "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020.

The discriminator sees real and generated pictures through the same random transformation T, and the generator is
trained through it: D(T(x)), D(T(G(z))). Every picture draws its own numbers, at every call.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["DiffAugment"]


class DiffAugment(nn.Module):
    """Pictures (N, C, H, W) in [-1, 1] -> pictures of that shape, transformed at random; differentiable to any order.

    Args:
        policy: kinds of transformation, in the order in which they are applied:
            ``color`` brightness + U(-1/2, 1/2), saturation * U(0, 2), contrast * U(1/2, 3/2); ``translation`` by up to
            1/8 of the size, zeros where nothing was; ``cutout`` of a square of half the size, set to zero.
    """

    def __init__(self, policy: str = "color,translation,cutout") -> None:
        super().__init__()
        self.policy = policy
        unknown = [kind for kind in policy.split(",") if kind not in _KINDS]
        if unknown:
            raise ValueError(f"policy has {unknown[0]!r}; it takes some of {', '.join(_KINDS)}, separated by commas")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for kind in self.policy.split(","):
            x = _KINDS[kind](x)
        return x

    def extra_repr(self) -> str:
        return repr(self.policy)


def _uniform(x: torch.Tensor) -> torch.Tensor:
    """(N, 1, 1, 1) in [0, 1)."""
    return torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)


def _color(x: torch.Tensor) -> torch.Tensor:
    x = x + _uniform(x) - 0.5
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * _uniform(x)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (0.5 + _uniform(x))


def _places(x: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """(N, 1) whole numbers from low to high, both included."""
    return torch.randint(low, high + 1, (len(x), 1), device=x.device)


def _translation(x: torch.Tensor) -> torch.Tensor:
    for dim in (2, 3):
        size = x.shape[dim]
        reach = (size + 4) // 8
        shape = [len(x), 1, 1, 1]
        shape[dim] = size
        origin = (torch.arange(size, device=x.device) - _places(x, -reach, reach)).view(shape)
        inside = (origin >= 0) & (origin < size)
        x = x.gather(dim, origin.clamp(0, size - 1).expand_as(x)) * inside
    return x


def _cutout(x: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[2:]
    cut = torch.ones((), dtype=torch.bool, device=x.device)
    for size, shape in ((height, (-1, 1, height, 1)), (width, (-1, 1, 1, width))):
        first = _places(x, 0, size) - size // 4  # of the square, which may reach over the edge
        place = torch.arange(size, device=x.device)
        cut = cut & ((place >= first) & (place < first + size // 2)).view(shape)
    return x * ~cut


_KINDS = {"color": _color, "translation": _translation, "cutout": _cutout}
