"""Recipes of classifiers that learn from few labels, shortened. Their bars are `fastgan reproduce`'s."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from fastgan import Batch
from fastgan.architectures.improved_gan import ImprovedGAN
from fastgan.architectures.vat import VAT
from fastgan.data import load
from fastgan.recipes import _semi, improved_gan, vat, vat_text


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


@pytest.mark.parametrize(("module", "architecture"), [(vat, VAT), (improved_gan, ImprovedGAN)])
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


def test_the_recipe_of_text_runs_through(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure: pip install 'fastgan[plots]'")
    monkeypatch.setattr(vat_text, "CAPTIONS", {"train": 120, "test": 40, "held_out": 40})
    monkeypatch.setattr(vat_text, "LABELS", 12)
    monkeypatch.setattr(vat_text, "STEPS", 20)
    measured = vat_text.RECIPE.measure(tmp_path, 0)
    vat_text.RECIPE.check_names(measured)
    assert all(0 <= value <= 1 for value in measured.values())
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_words_by_number():
    vocabulary = {"a": 1, "ball": 2, "mid-sized": 3}
    text = vat_text.encode(["a mid-sized, red ball", "ball"], vocabulary)
    assert text.tolist() == [[1, 3, 2], [2, 0, 0]], "red is no word of the vocabulary"


def test_texts_with_few_labels():
    data = vat_text.Texts(torch.arange(5)[:, None] + 10, torch.tensor([0, 1, 2, 0, 1]), ("a", "b", "c"))
    few = vat_text.with_few_labels(data, torch.tensor([1, 3]))
    assert few.text.flatten().tolist() == [10, 11, 11, 13, 12, 11, 13, 13, 14, 11]
    assert few.label.tolist() == [-1, 1, -1, 0, -1, 1, -1, 0, -1, 1]


def test_captions_for_training_have_few_labels_and_the_vocabulary_is_theirs(monkeypatch):
    monkeypatch.setattr(vat_text, "CAPTIONS", {"train": 120, "test": 40, "held_out": 40})
    monkeypatch.setattr(vat_text, "LABELS", 12)
    texts, vocabulary = vat_text.captions(0)
    assert len(texts["train"]) == 240 and (texts["train"].label >= 0).sum() == 120
    labelled = texts["train"].text[texts["train"].label >= 0]
    assert len(labelled.unique(dim=0)) == 12
    assert texts["train"].text.max() == len(vocabulary)
    other, _ = vat_text.captions(1)
    assert not torch.equal(texts["test"].label, other["test"].label), "a seed draws its own captions"
