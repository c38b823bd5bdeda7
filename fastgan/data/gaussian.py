"""The 1-D Gaussian of the first GAN paper's figure 1, as "images" of one value."""

from __future__ import annotations

import numpy as np
import torch

from fastgan.data.dataset import ImageDataset

__all__ = ["Gaussian"]


class Gaussian(ImageDataset):
    """Numbers drawn from N(mean, std^2), each an image (1, 1, 1) float32 (bytes would quantise the density).

    Args:
        size: how many numbers.
        mean, std: of the density. Data points, unlike images, are not confined to [-1, 1].
        seed: of the draw.
    """

    def __init__(self, size: int = 16384, *, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> None:
        if not std > 0:
            raise ValueError(f"std takes a positive number, got {std!r}")
        super().__init__(
            "gaussian",
            size,
            image_size=1,
            channels=1,
            origin=f"normal density, mean {mean:g}, std {std:g}, seed {seed}",
        )
        self.mean, self.std = mean, std
        generator = torch.Generator().manual_seed(seed)
        self._values = (torch.randn(size, generator=generator) * std + mean).view(size, 1, 1, 1)

    def _images(self, indices: np.ndarray) -> torch.Tensor:
        return self._values[torch.from_numpy(indices)]

    def density(self, x: torch.Tensor) -> torch.Tensor:
        """p_data at ``x``, any shape."""
        return torch.distributions.Normal(self.mean, self.std).log_prob(x).exp()
