"""Write a batch of images, or of points, as one picture."""

from __future__ import annotations

from pathlib import Path

import torch

from fastgan.training.checkpoint import write_atomically

__all__ = ["is_drawn_as_points", "make_grid", "make_scatter", "save_grid", "save_scatter"]

# orange and blue of Okabe and Ito's palette, which the colour-blind tell apart
DATA_COLOUR, SAMPLE_COLOUR = (0.90, 0.62, 0.0), (0.0, 0.45, 0.70)
DOT = 0.35  # how much of a pixel one point covers
BAR = 8  # width of a histogram's bars in pixels


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


def is_drawn_as_points(images: torch.Tensor) -> bool:
    """Whether these "images" are points that ``make_scatter`` draws: (N, 1, 1, 1) or (N, 2, 1, 1)."""
    return images.dim() == 4 and images.shape[1] in (1, 2) and images.shape[2:] == (1, 1)


def make_scatter(samples: torch.Tensor, data: torch.Tensor | None = None, size: int = 512) -> torch.Tensor:
    """Points (N, 2, 1, 1), x to the right and y upwards, to a (size, size, 3) uint8 picture: samples in blue over data
    in orange, denser where there are more. Numbers (N, 1, 1, 1) become two histograms of equal area.

    Both axes span the same length, what ``data`` (M, D, 1, 1) spans and a margin: equal data give equal axes. Without
    data it is what the samples span. Points outside, and those that are not finite, are left out.
    """
    reference = samples if data is None else data
    if not is_drawn_as_points(samples) or reference.shape[1:] != samples.shape[1:] or len(reference) == 0:
        raise ValueError(
            f"a scatter takes points (N, 1, 1, 1) or (N, 2, 1, 1), got samples of shape {tuple(samples.shape)}"
            + (f" and data of {tuple(data.shape)}" if data is not None else "")
        )
    low, high = _axes(_finite(reference))
    picture = torch.ones(size, size, 3)
    layers = [(data, DATA_COLOUR)] if data is not None else []
    for points, colour in (*layers, (samples, SAMPLE_COLOUR)):
        places = (_finite(points) - low) / (high - low) * size
        cover = _dots(places, size) if points.shape[1] == 2 else _bars(places[:, 0], size)
        picture += cover[:, :, None] * (torch.tensor(colour) - picture)
    return picture.mul(255).round().to(torch.uint8)


def _finite(points: torch.Tensor) -> torch.Tensor:
    """(N, D, 1, 1) -> (M, D) float64 on the CPU, those that are finite."""
    points = points.detach().to("cpu", torch.float64).flatten(1)
    return points[points.isfinite().all(1)]


def _axes(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends (D,) of axes of one length around points (N, D), with a margin of a tenth on every side."""
    if len(points) == 0:
        points = torch.zeros(1, points.shape[1], dtype=torch.float64)
    least, most = points.amin(0), points.amax(0)
    half = 0.6 * (most - least).max().clamp(min=1e-6)
    middle = (least + most) / 2
    return middle - half, middle + half


def _dots(places: torch.Tensor, size: int) -> torch.Tensor:
    """Coverage (size, size) in [0, 1) by dots of 3 x 3 pixels around (N, 2) in pixels."""
    columns, rows = places[:, 0].floor().long(), size - 1 - places[:, 1].floor().long()
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    counts = torch.bincount(rows[inside] * size + columns[inside], minlength=size * size).view(1, size, size).float()
    counts = 9 * torch.nn.functional.avg_pool2d(counts, 3, stride=1, padding=1)[0]
    return 1 - (1 - DOT) ** counts


def _bars(places: torch.Tensor, size: int) -> torch.Tensor:
    """Coverage (size, size) by a histogram of (N,) in pixels, whose area is a quarter of the picture's."""
    bins = (places / BAR).floor().long()
    counts = torch.bincount(bins[(bins >= 0) & (bins < size // BAR)], minlength=size // BAR)
    heights = (counts / max(1, len(places)) * size * size / 4 / BAR).repeat_interleave(BAR)
    heights = torch.nn.functional.pad(heights, (0, size - len(heights)))
    return 0.6 * (torch.arange(size)[:, None] >= size - heights)


def save_grid(images: torch.Tensor, path: str | Path, columns: int = 8, gap: int = 2) -> Path:
    """Write ``make_grid(images, columns, gap)`` as PNG, whole or not at all; makes the folder; returns the path."""
    return _save(make_grid(images, columns, gap), path)


def save_scatter(samples: torch.Tensor, path: str | Path, data: torch.Tensor | None = None, size: int = 512) -> Path:
    """Write ``make_scatter(samples, data, size)`` as ``save_grid`` does its picture."""
    return _save(make_scatter(samples, data, size), path)


def _save(pixels: torch.Tensor, path: str | Path) -> Path:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install pillow") from error
    picture = Image.fromarray(pixels.squeeze(2).numpy())
    path = Path(path)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
    return path
