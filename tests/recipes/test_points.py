"""The recipes on rings and grids, shortened, and their judge. The bars are `fastgan reproduce wgan_gaussians` and
`wgan_gp_gaussians`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.architectures.base import Architecture
from fastgan.architectures.wgan import WGAN
from fastgan.architectures.wgan_gp import WGANGP
from fastgan.data import load
from fastgan.recipes import _points, wgan_gaussians, wgan_gp_gaussians


@pytest.mark.parametrize("recipe", [wgan_gaussians, wgan_gp_gaussians])
def test_run_draws_and_measures(recipe: ModuleType, tmp_path, monkeypatch):
    for cls in (WGAN, WGANGP):
        short = {name: shorten(preset) for name, preset in cls.presets.items()}
        monkeypatch.setattr(cls, "presets", short)
    measured = recipe.RECIPE.measure(tmp_path, 0)
    recipe.RECIPE.check_names(measured)
    modes = [value for name, value in measured.items() if name.startswith("modes hit")]
    assert len(modes) == 2 and all(0 <= number <= 25 for number in modes)
    assert not all(check.holds([measured] * 3) for check in recipe.RECIPE.checks), "two steps reach no mode"
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (2 * 480 + 6, 480 + 4)


def shorten(preset):
    return replace(preset, steps=2, batch_size=16, size=200, model={**preset.model, "hidden": 8, "n_critic": 1})


class ThreeModes(Architecture):
    """Samples lie on the centres of three modes of the ring, and every fourth between all of them."""

    def sample(self, n: int) -> torch.Tensor:
        points = load("gaussians_8", size=8).centres[torch.arange(n) % 3]
        points[::4] = 0
        return points.view(n, 2, 1, 1)


def test_coverage_of_a_known_generator():
    generator = ThreeModes(ThreeModes.Config(image_size=1, channels=2))
    mixture = load("gaussians_8", size=400)
    run = SimpleNamespace(batches=SimpleNamespace(dataset=mixture), averaged=lambda: nullcontext(generator))
    found, panel = _points.coverage(run)
    assert (found.modes, found.total, found.high_quality) == (3, 8, 0.75)
    assert panel.shape == (480, 480, 3) and panel[240, 240, 2] > panel[240, 240, 0]  # the far ones lie in the middle


def test_panels_stand_side_by_side(tmp_path):
    panels = [torch.full((4, 6, 3), value, dtype=torch.uint8) for value in (30, 200)]
    _points.save_panels(panels, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (8, 18, 3) and (pixels[3, 5] == 30).all() and (pixels[3, 12] == 200).all()
