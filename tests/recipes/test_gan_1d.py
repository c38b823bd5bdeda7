"""The one-dimensional GAN's recipe, shortened: files and verdict. The bar itself is `fastgan reproduce gan-1d`."""

from __future__ import annotations

import json

import pytest
import torch

from fastgan.recipes import Result, gan_1d, get, names


def test_recipes_are_found_by_either_spelling():
    assert "gan_1d" in names()
    assert get("gan-1d") is gan_1d


def test_run_draws_and_measures(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure: pip install 'fastgan[plots]'")
    monkeypatch.setattr(gan_1d, "STEPS", 30)
    monkeypatch.setattr(gan_1d, "PANELS", (1, 10, 20, 30))
    result = gan_1d.run(tmp_path, seed=0)
    assert isinstance(result, Result)
    assert not result.passed, "thirty steps cannot match the densities"
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["largest |D(x) - 1/2|"] == result.measured["largest |D(x) - 1/2|"] > 0


def test_density_integrates_to_one():
    x = torch.linspace(-4, 4, 801)
    p = gan_1d.density(torch.randn(5000, generator=torch.Generator().manual_seed(0)), x)
    assert p.sum().item() * (x[1] - x[0]).item() == pytest.approx(1, abs=1e-3)
