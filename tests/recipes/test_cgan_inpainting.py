"""The inpainting recipe of the conditional GAN, shortened, and its fills' errors."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.architectures.cgan import Inpainter
from fastgan.data.named import ImageArray
from fastgan.recipes import cgan_inpainting


def test_the_recipe_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = cgan_inpainting.PRESET
    tiny = {**preset.model, "z_dim": 4, "ngf": 2, "ndf": 2, "context_dim": 4}
    monkeypatch.setattr(
        cgan_inpainting, "PRESET", replace(preset, data="scenes", steps=3, batch_size=4, model=tiny, size=40)
    )
    monkeypatch.setattr(cgan_inpainting, "IMAGES", 30)
    measured = cgan_inpainting.RECIPE.measure(tmp_path, 0)
    cgan_inpainting.RECIPE.check_names(measured)
    assert len(measured) == 6 and all(math.isfinite(value) for value in measured.values())
    assert len(set(measured.values())) == 6, "one fill was measured twice"
    assert (tmp_path / "picture.png").stat().st_size > 1000


def images(*values: int) -> ImageArray:
    """Images of 32 px: a black frame and a hole of this grey, 0 to 255."""
    pixels = torch.zeros(len(values), 1, 32, 32, dtype=torch.uint8)
    pixels[:, :, 8:24, 8:24] = torch.tensor(values, dtype=torch.uint8)[:, None, None, None]
    return ImageArray("holes", pixels, image_size=32)


@pytest.fixture
def inpainter() -> Inpainter:
    return Inpainter(32, 1, z_dim=2, context_dim=2, ngf=2)


def test_errors_are_those_of_the_hole(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgan_inpainting, "BATCH", 2)  # three images: a full batch and one that is not
    data = images(0, 255, 255)
    mean = cgan_inpainting.mean_image(data)
    assert mean.shape == (1, 32, 32)
    assert inpainter.middle(mean).flatten().tolist() == pytest.approx([1 / 3] * 256)
    squared, decibels = cgan_inpainting.errors(lambda _: inpainter.middle(mean), inpainter.middle, data)
    assert squared == pytest.approx(((4 / 3) ** 2 + 2 * (2 / 3) ** 2) / 3)
    psnrs = [10 * math.log10(4 / (4 / 3) ** 2), 10 * math.log10(4 / (2 / 3) ** 2)]
    assert decibels == pytest.approx((psnrs[0] + 2 * psnrs[1]) / 3)


def test_the_visible_mean_does_not_look_into_the_hole(inpainter: Inpainter) -> None:
    image = torch.full((2, 1, 32, 32), 9.0)
    image[0, :, :8], image[0, :, 24:], image[0, :, :, :8], image[0, :, :, 24:] = 0.5, 0.5, 0.5, 0.5
    image[1, :, :8], image[1, :, 24:], image[1, :, :, :8], image[1, :, :, 24:] = 0.0, 0.0, 0.0, 0.0
    image[1, :, :8] = 0.75  # 256 of the 768 visible pixels
    means = cgan_inpainting.visible_mean(image, inpainter.known)
    assert means.shape == (2, 1, 1, 1) and means.flatten().tolist() == pytest.approx([0.5, 0.25])


def test_the_picture_has_the_hole_the_filling_and_the_image(
    inpainter: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgan_inpainting, "COLUMNS", 2)

    class White:
        generator = inpainter

        def generate(self, batch):
            return torch.ones_like(batch.image)

    cgan_inpainting.draw(White(), images(0, 51, 102, 153), tmp_path / "picture.png")
    picture = Image.open(tmp_path / "picture.png")
    cell = 32 * cgan_inpainting.ZOOM + 2
    middles = [[picture.getpixel((cell * x + cell // 2, cell * y + cell // 2)) for x in (0, 1)] for y in range(6)]
    assert middles == [[128, 128], [255, 255], [0, 51], [128, 128], [255, 255], [102, 153]]
