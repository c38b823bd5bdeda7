"""From an image file, or a Pillow image of any mode, to (C, image_size, image_size) uint8."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import torch

from fastgan.data.resize import convert_channels, crop_and_resize

__all__ = ["decode", "header", "pillow", "pixels"]

GREY_MODES = ("1", "L", "LA", "La", "F", "I")


def pillow():
    """Pillow's Image and ImageOps; only who reads image files needs them."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError("reading image files needs Pillow: pip install pillow") from None
    return Image, ImageOps


def header(file: BinaryIO) -> tuple[bool, tuple[int, int]]:
    """Whether the image is grey, and (width, height), without decoding it."""
    Image, _ = pillow()
    with Image.open(file) as image:
        return is_grey(image), image.size


def is_grey(image: Any) -> bool:
    return image.mode in GREY_MODES or image.mode.startswith("I;16")


def decode(file: BinaryIO, image_size: int, channels: int) -> torch.Tensor:
    """The image in ``file``, of a film or stack the first frame. Raises whatever a broken file makes Pillow raise."""
    Image, _ = pillow()
    with Image.open(file) as image:
        # a JPEG decodes at 1/2, 1/4 or 1/8 scale for nothing; twice the target leaves the resize its work
        image.draft(None, (2 * image_size, 2 * image_size))
        image.load()
        return pixels(image, image_size, channels)


def pixels(image: Any, image_size: int, channels: int) -> torch.Tensor:
    """A Pillow image turned upright (EXIF), its centre square resized by antialiased bicubic.

    Transparency is composited over white unless ``channels`` is 4. Sixteen bits are scaled to eight.
    """
    _, ImageOps = pillow()
    picture = _to_tensor(ImageOps.exif_transpose(image))
    if channels != 4:  # before the resize: colours under transparent pixels must not bleed into their neighbours
        picture = convert_channels(picture, channels)
    return convert_channels(crop_and_resize(picture[None], image_size)[0], channels)


def _to_tensor(image: Any) -> torch.Tensor:
    """A Pillow image of any mode as (1, 3 or 4, H, W) uint8."""
    if image.mode.startswith("I;16") or image.mode == "I":
        deep = np.asarray(image).astype(np.int64)  # 16 bits: convert("L") would clip, not scale
        # "I" has 32 bits and says nothing of its range: older Pillow opens 16-bit files so, and other programs bytes
        scaled = image.mode != "I" or deep.max(initial=0) > 255
        grey = deep >> 8 if scaled else deep
        return torch.from_numpy(grey.clip(0, 255).astype(np.uint8))[None]
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L", "F"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)
