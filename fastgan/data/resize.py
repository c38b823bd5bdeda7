"""From images of any size and channel count to the one shape a network takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["check_channels", "check_image_size", "convert_channels", "crop_and_resize", "resize_note"]

# ITU-R BT.601 luma, the weights that image libraries use for RGB -> grey
LUMA = (0.299, 0.587, 0.114)


def check_channels(channels: int | None) -> None:
    if channels not in (None, 1, 3, 4):
        raise ValueError(f"channels takes 1 (grey), 3 (RGB), 4 (RGBA) or None (as stored), got {channels!r}")


def check_image_size(image_size: int) -> None:
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 1 <= image_size <= 4096:
        raise ValueError(f"image_size takes a number of pixels from 1 to 4096, got {image_size!r}")


def convert_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Images (..., C', H, W) uint8 with C' in {1, 3, 4} to (..., channels, H, W).

    Grey is the BT.601 luma of RGB; RGB of grey repeats it; transparent pixels are composited over white, unless RGBA is
    wanted, which opaque images become with alpha 255.
    """
    given = images.shape[-3]
    if given == channels:
        return images
    if given == 4:
        colour, alpha = images[..., :3, :, :].float(), images[..., 3:, :, :].float() / 255
        images = (255 + (colour - 255) * alpha).round_().to(torch.uint8)
        given = 3
    if channels == 1 and given == 3:
        weights = torch.tensor(LUMA).view(3, 1, 1)
        return (images.float() * weights).sum(-3, keepdim=True).round_().clamp_(0, 255).to(torch.uint8)
    if channels >= 3 and given == 1:
        images = images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    if channels == 4:
        alpha = torch.full_like(images[..., :1, :, :], 255)
        images = torch.cat([images, alpha], dim=-3)
    return images


def crop_and_resize(images: torch.Tensor, image_size: int) -> torch.Tensor:
    """Centre square of images (N, C, H, W) uint8, resized to (N, C, image_size, image_size) by antialiased bicubic."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == image_size:
        return images
    return F.interpolate(images, size=(image_size, image_size), mode="bicubic", antialias=True)


def resize_note(native: int | str, image_size: int) -> str:
    return f"{native} px" if str(native) == str(image_size) else f"resized {native} -> {image_size} px"
