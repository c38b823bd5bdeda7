"""Pictures of the analyses: tiles with captions on one sheet, and GIFs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastgan.training.checkpoint import write_atomically
from fastgan.training.grid import make_grid

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Tile", "enlarge", "save_gif", "save_sheet"]

GAP = 2
LINE = 12  # height of a line of text in pixels
INK, PAPER = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """Something at a place of a sheet: an image (C, H, W) in [-1, 1], or text alone where there is none."""

    row: int
    column: int
    image: torch.Tensor | None = None
    text: str = ""


def enlarge(images: torch.Tensor, least: int) -> torch.Tensor:
    """(N, C, H, W) with every pixel repeated until the height is at least ``least``."""
    factor = max(1, -(-least // images.shape[2]))
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def save_sheet(tiles: Sequence[Tile], path: str | Path, captions: bool = True) -> Path:
    """Write tiles as one PNG, whole or not at all; returns the path.

    All images have one size. Text stands under its image, in a line that ``captions=False`` leaves out; of a tile
    without image it stands in the middle.
    """
    image_module, draw_module = _pillow()
    height, width = next(tile.image.shape[1:] for tile in tiles if tile.image is not None)
    step_x, step_y = width + 2 * GAP, height + 2 * GAP + (LINE if captions else 0)
    size = (1 + max(tile.column for tile in tiles)) * step_x, (1 + max(tile.row for tile in tiles)) * step_y
    sheet = image_module.new("RGB", size, PAPER)
    pen = draw_module.Draw(sheet)
    for tile in tiles:
        left, top = tile.column * step_x + GAP, tile.row * step_y + GAP
        middle = left + width // 2
        if tile.image is None:
            top += (height - LINE) // 2 - height - GAP
        else:
            sheet.paste(_picture(tile.image[None]), (left, top))
        pen.text((middle - pen.textlength(tile.text) / 2, top + height + GAP), tile.text, fill=INK)
    path = Path(path)
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))
    return path


def save_gif(frames: Sequence[torch.Tensor], path: str | Path, columns: int = 8, per_second: float = 10.0) -> Path:
    """Write batches (N, C, H, W) in [-1, 1], each a frame laid out as ``make_grid`` does, as an endless GIF.

    Colours are cut to the 256 nearest of each frame. Whole or not at all; returns the path.
    """
    pictures = [_picture(frame, columns) for frame in frames]
    path = Path(path)
    write_atomically(
        path,
        lambda temporary: pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / per_second),
            loop=0,
        ),
    )
    return path


def _picture(images: torch.Tensor, columns: int = 1) -> Image.Image:
    image_module, _ = _pillow()
    grid = make_grid(images, columns, gap=0 if len(images) == 1 else GAP)
    return image_module.fromarray(grid.squeeze(2).numpy()).convert("RGB")


def _pillow():
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install pillow") from error
    return Image, ImageDraw
