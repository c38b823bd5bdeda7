"""Vector arithmetic on latents: Radford et al. 2016 (DCGAN), section 6.3.2 and figure 7.

A single sample's latent was found unstable; the mean of three of a kind is not. ``a - b + c`` of such means is one more
latent, and around it uniform noise of +-0.25 shows its neighbourhood.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["NOISE", "combine", "jitter"]

NOISE = 0.25


def combine(latents: torch.Tensor, a: Sequence[int], b: Sequence[int], c: Sequence[int]) -> torch.Tensor:
    """(4, z_dim): the means of the latents numbered ``a``, ``b`` and ``c``, and mean(a) - mean(b) + mean(c).

    Args:
        latents: (N, z_dim).
        a, b, c: numbers of rows, at least one each.

    Raises:
        ValueError: no number, or one that is not a row's.
    """
    for name, numbers in (("a", a), ("b", b), ("c", c)):
        if not numbers:
            raise ValueError(f"{name} takes at least one number of a sample")
        for number in numbers:
            if not 0 <= number < len(latents):
                raise ValueError(f"{name} names sample {number}; there are 0 to {len(latents) - 1}")
    means = [latents[list(numbers)].mean(0) for numbers in (a, b, c)]
    return torch.stack([*means, means[0] - means[1] + means[2]])


def jitter(latent: torch.Tensor, count: int, noise: float = NOISE) -> torch.Tensor:
    """``count`` neighbours (count, z_dim) of ``latent`` (z_dim,): uniform noise in [-noise, noise] added to every
    coordinate, from torch's global generator."""
    return latent + torch.empty(count, *latent.shape, device=latent.device, dtype=latent.dtype).uniform_(-noise, noise)
