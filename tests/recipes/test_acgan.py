"""AC-GAN's recipe, shortened. The bar itself is `fastgan reproduce acgan`; what it measures: test_cgan.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgan.architectures.acgan import ACGAN
from fastgan.architectures.base import Preset
from fastgan.metrics.classifier import ClassifierFeatures
from fastgan.recipes import _classes, acgan

SMALL = Preset("scenes", 3, 4, {"image_size": 16, "z_dim": 4, "ngf": 2, "ndf": 2}, size=60)


def test_the_recipe_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untrained(data: str, out: Path, *, image_size: int, epochs: int) -> tuple[ClassifierFeatures, float]:
        return ClassifierFeatures(3, image_size, [str(i) for i in range(6)], data).freeze(), 0.5

    monkeypatch.setitem(ACGAN.presets, "fashion_mnist", SMALL)
    monkeypatch.setattr(_classes, "PER_CLASS", 6)
    monkeypatch.setattr(_classes, "classifier", untrained)
    measured = acgan.RECIPE.measure(tmp_path, 0)
    acgan.RECIPE.check_names(measured)
    assert measured["judge's accuracy on test images"] == 0.5
    assert (tmp_path / "picture.png").stat().st_size > 1000
