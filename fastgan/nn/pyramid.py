"""The Laplacian pyramid of a batch of images: Burt & Adelson, "The Laplacian Pyramid as a Compact Image Code", 1983.

    down(x)  mean of every 2x2 pixels                        (N, C, 2s, 2s) -> (N, C, s, s)
    up(x)    bilinear interpolation between pixel centres    (N, C, s, s)   -> (N, C, 2s, 2s)

A level of the pyramid is what up(down(x)) loses of x: x - up(down(x)), of x's size. Whatever the two operators are, the
sums from the coarsest level up give the image back, to rounding. Burt & Adelson smooth with a 5x5 window; these are
the 2x2 and 4x4 windows of Denton et al. 2015, whose code resizes bilinearly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["build_pyramid", "collapse_pyramid", "downsample", "upsample"]


def downsample(image: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, H / 2, W / 2): the mean of every 2x2 pixels. H and W are even, else ValueError."""
    if image.dim() != 4 or image.shape[2] % 2 or image.shape[3] % 2:
        raise ValueError(f"downsample takes images (N, C, H, W) with even H and W, got {tuple(image.shape)}")
    return F.avg_pool2d(image, 2)


def upsample(image: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W), by bilinear interpolation between pixel centres."""
    return F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)


def build_pyramid(image: torch.Tensor, levels: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The image ``levels`` times halved, and what each halving lost, from coarse to fine.

    (N, C, H, W) -> (N, C, H / 2**levels, W / 2**levels), [(N, C, H / 2**(levels - 1), ...), ..., (N, C, H, W)].

    Raises:
        ValueError: H or W cannot be halved so often.
    """
    residuals = []
    for _ in range(levels):
        low = downsample(image)
        residuals.append(image - upsample(low))
        image = low
    return image, residuals[::-1]


def collapse_pyramid(coarsest: torch.Tensor, residuals: list[torch.Tensor]) -> torch.Tensor:
    """The image of which ``build_pyramid`` returned these two: upsample, add, and again."""
    image = coarsest
    for residual in residuals:
        image = upsample(image) + residual
    return image
