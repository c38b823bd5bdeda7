"""The one-dimensional GAN's recipe, shortened. The bar itself is `fastgan reproduce gan-1d`."""

from __future__ import annotations

import pytest
import torch

from fastgan.recipes import gan_1d


def test_run_draws_and_measures(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure: pip install 'fastgan[plots]'")
    monkeypatch.setattr(gan_1d, "STEPS", 30)
    monkeypatch.setattr(gan_1d, "PANELS", (1, 10, 20, 30))
    measured = gan_1d.RECIPE.measure(tmp_path, 0)
    gan_1d.RECIPE.check_names(measured)
    assert not all(check.holds([measured]) for check in gan_1d.RECIPE.checks), "thirty steps cannot match the densities"
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_density_integrates_to_one():
    x = torch.linspace(-4, 4, 801)
    p = gan_1d.density(torch.randn(5000, generator=torch.Generator().manual_seed(0)), x)
    assert p.sum().item() * (x[1] - x[0]).item() == pytest.approx(1, abs=1e-3)
