"""Layers that torch lacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["AlwaysDropout", "ReplayBuffer"]


class AlwaysDropout(nn.Dropout):
    """nn.Dropout that drops in eval mode too: a generator's noise (Isola et al. 2017, pix2pix, section 3.2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.p, training=True, inplace=self.inplace)


class ReplayBuffer(nn.Module):
    """Mixes a discriminator's fake batches with fakes of the past, so that a generator cannot go back to old tricks.

    ``buffer(fake)``: (N, ...) in, (N, ...) out, of which the first N // 2 were drawn from the latest ``size`` that the
    buffer keeps. They take the place of as many new ones, which it stores. The very first batch comes back as it is.

    Images and count are buffers in ``state_dict``, and neither waits for the device. No gradient flows through.

    Source: Shrivastava et al., "Learning from Simulated and Unsupervised Images" (2017), section 2.3; the images that
    make way are the oldest here, not random ones.
    """

    def __init__(self, size: int, *shape: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"ReplayBuffer: size is {size}; it takes a whole number of images from 1")
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # stored since the beginning

    @torch.no_grad()
    def forward(self, fake: torch.Tensor) -> torch.Tensor:
        size = len(self.images)
        half = min(len(fake) // 2, size)
        new = fake[:half].to(self.images.dtype)
        kept = self.count.clamp(max=size)
        drawn = self.images[(torch.rand(half, device=fake.device) * kept).long()]
        old = torch.where(self.count > 0, drawn, new)
        slots = (self.count + torch.arange(half, device=fake.device)) % size
        self.images.index_copy_(0, slots, new)
        self.count += half
        return torch.cat([old.to(fake.dtype), fake[half:]])
