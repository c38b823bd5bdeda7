"""The recipe of DCGAN's features, shortened. The bar itself is `fastgan reproduce dcgan_features`."""

from __future__ import annotations

import dataclasses

from fastgan.recipes import dcgan_features


def test_it_measures_what_its_bar_names_and_draws(tmp_path, monkeypatch):
    preset = dataclasses.replace(
        dcgan_features.PRESET, data="scenes", steps=2, size=40, model={"image_size": 16, "ngf": 2, "ndf": 4}
    )
    monkeypatch.setattr(dcgan_features, "PRESET", preset)
    monkeypatch.setattr(dcgan_features, "IMAGES", 60)
    measured = dcgan_features.RECIPE.measure(tmp_path, 0)
    dcgan_features.RECIPE.check_names(measured)
    assert 0 < measured[dcgan_features.PIXELS] <= 1
    assert (tmp_path / "picture.png").stat().st_size > 1000
