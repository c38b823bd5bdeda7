"""The 1-D Gaussian of the first GAN paper's figure 1, as "images" of one value."""

from __future__ import annotations

import torch

from fastgan.data.dataset import ImageDataset

__all__ = ["Gaussian"]


class Gaussian(ImageDataset):
    """Numbers drawn from N(mean, std^2), each an image (1, 1, 1) float32 (bytes would quantise the density).

    Args:
        size: how many numbers.
        mean, std: of the density. The default keeps the data inside [-1, 1] out to three standard deviations.
        seed: of the draw.
    """

    def __init__(self, size: int = 16384, *, mean: float = 0.3, std: float = 0.2, seed: int = 0) -> None:
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

    def _images(self, indices: torch.Tensor) -> torch.Tensor:
        return self._values[indices]

    def density(self, x: torch.Tensor) -> torch.Tensor:
        """p_data at ``x``, any shape."""
        return torch.distributions.Normal(self.mean, self.std).log_prob(x).exp()
