"""Write a batch of images as one picture."""

from __future__ import annotations

from pathlib import Path

import torch

from fastgan.training.checkpoint import write_atomically

__all__ = ["make_grid", "save_grid"]


def make_grid(images: torch.Tensor, columns: int = 8, gap: int = 2) -> torch.Tensor:
    """(N, C, H, W) in [-1, 1] to one (rows * (H + gap) + gap, columns * (W + gap) + gap, C) uint8 picture, row by row.

    Values outside the range are cut off, NaN is black. C of 1 (grey), 3 (RGB) and 4 (RGBA) are kept; of any other
    number of channels the mean is shown in grey. The last row is filled up with black.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images has shape {tuple(images.shape)}; a grid takes (N, C, H, W) with N >= 1")
    if columns < 1:
        raise ValueError(f"columns is {columns}; it takes 1 or more")
    images = images.detach().to("cpu", torch.float32)
    if images.shape[1] not in (1, 3, 4):
        images = images.mean(dim=1, keepdim=True)
    pixels = images.nan_to_num(nan=-1.0).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    n, channels, height, width = pixels.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    grid = pixels.new_zeros(rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    for i, image in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return grid


def save_grid(images: torch.Tensor, path: str | Path, columns: int = 8, gap: int = 2) -> Path:
    """Write ``make_grid(images, columns, gap)`` as PNG, whole or not at all; makes the folder; returns the path."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install pillow") from error
    picture = Image.fromarray(make_grid(images, columns, gap).squeeze(2).numpy())
    path = Path(path)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
    return path
