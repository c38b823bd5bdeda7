"""Recipes of classifiers that learn from few labels, shortened. Their bars are `fastgan reproduce`'s."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from fastgan import Batch
from fastgan.architectures.vat import VAT
from fastgan.data import load
from fastgan.recipes import _semi, vat


class Always(torch.nn.Module):
    """Calls everything class 1."""

    device = torch.device("cpu")

    def predict(self, batch: Batch) -> torch.Tensor:
        return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(batch), 3)


class Numbers:
    """Items 0, 1, 2, ... of the classes 0, 1, 2, 0, 1, 2, ..."""

    def __len__(self) -> int:
        return 7

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"index": indices, "label": indices % 3}


def test_the_error_is_over_every_item():
    # classes 0 1 2 0 1 2 0: two of seven are class 1
    for batch_size in (2, 3, 100):
        assert _semi.test_error(Always(), Numbers(), batch_size) == pytest.approx(5 / 7)


@pytest.mark.parametrize(("module", "architecture"), [(vat, VAT)])
def test_the_recipe_runs_through(module, architecture, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure: pip install 'fastgan[plots]'")
    preset = architecture.presets["mnist_5k"]
    short = replace(preset, data="scenes?labels=12", steps=4, batch_size=8, size=60)
    monkeypatch.setitem(architecture.presets, "mnist_5k", short)
    monkeypatch.setattr(module, "load", lambda name, **options: load("scenes", size=30, **options))
    measured = module.RECIPE.measure(tmp_path, 0)
    module.RECIPE.check_names(measured)
    assert all(0 <= value <= 1 for value in measured.values())
    assert Image.open(tmp_path / "picture.png").width <= 1000
    ends = {label: (tmp_path / label.replace(" ", "_") / architecture.name) for label in (_semi.ALONE, _semi.SEMI)}
    assert all((folder / "metrics.jsonl").exists() for folder in ends.values())
