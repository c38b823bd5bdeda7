"""What the class-conditional recipes measure, and the conditional GAN's, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan import Batch
from fastgan.architectures.base import Preset
from fastgan.architectures.cgan import CGAN
from fastgan.data.named import ImageArray
from fastgan.metrics.classifier import ClassifierFeatures
from fastgan.recipes import _classes, cgan

SMALL = Preset("scenes", 3, 4, {"network": "dcgan", "image_size": 16, "z_dim": 4, "ngf": 2, "ndf": 2}, size=60)


def test_the_recipe_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CGAN.presets, "fashion_mnist", SMALL)
    monkeypatch.setattr(_classes, "PER_CLASS", 6)
    asked = []

    def untrained(data: str, out: Path, *, image_size: int, epochs: int) -> tuple[ClassifierFeatures, float]:
        asked.append((data, image_size))
        return ClassifierFeatures(3, image_size, [str(i) for i in range(6)], data).freeze(), 0.5

    monkeypatch.setattr(_classes, "classifier", untrained)
    measured = cgan.RECIPE.measure(tmp_path, 0)
    cgan.RECIPE.check_names(measured)
    assert asked == [("scenes", 16)] and measured["judge's accuracy on test images"] == 0.5
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_consistency_is_the_share_named_as_asked() -> None:
    votes = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [2, 2, 2, 1]])
    measured = _classes.consistency(torch.nn.functional.one_hot(votes, 3).float())
    assert measured[_classes.CONSISTENT.value] == pytest.approx(9 / 12)
    assert measured["label consistency, worst class"] == 0.5


def test_diversity_is_compared_class_by_class() -> None:
    generator = torch.Generator().manual_seed(0)
    varied = [torch.rand(40, 1, 16, 16, generator=generator) * 2 - 1 for _ in range(2)]
    one_picture = varied[1][:1].expand(40, -1, -1, -1)
    same = _classes.diversity(varied, varied)
    assert same[_classes.EXCESS] == 0 and 0 <= same["MS-SSIM within a class"] < 0.2
    stuck = _classes.diversity([varied[0], one_picture], varied)
    worst = 1 - _classes.pairwise_ms_ssim(varied[1])
    assert stuck[f"{_classes.EXCESS}, worst class"] == pytest.approx(worst)
    assert stuck[_classes.EXCESS] == pytest.approx(worst / 2)
    assert stuck["MS-SSIM within a class, real images"] == same["MS-SSIM within a class"]


def test_samples_and_real_images_are_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_classes, "PER_CLASS", 3)
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 1])
    pixels = (50 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    data = ImageArray("grey", pixels, labels, ("black", "grey"), image_size=16)
    assert len(_classes.real_images(data, 0)) == 2, "there are no more"
    assert (_classes.real_images(data, 1) == 50 / 127.5 - 1).all() and len(_classes.real_images(data, 1)) == 3

    class Shade:
        def generate(self, batch: Batch) -> torch.Tensor:
            return batch.label[:, None, None, None].float()

    assert _classes.of_class(Shade(), 1).flatten().tolist() == [1, 1, 1]


def test_the_picture_has_a_column_for_each_class(tmp_path: Path) -> None:
    def plain(value: float, count: int) -> torch.Tensor:
        return torch.full((count, 1, 4, 4), value)

    real, samples = [plain(-0.75, 2), plain(-0.5, 2)], [plain(0.0, 9), plain(0.5, 9)]
    _classes.draw(samples, real, tmp_path / "picture.png")
    picture = Image.open(tmp_path / "picture.png")
    cell = 4 * _classes.ZOOM + 2
    assert picture.size == (2 * cell + 2, (_classes.ROWS + 2) * cell + 2)
    shades = [[picture.getpixel((cell * column + 4, cell * row + 4)) for column in (0, 1)] for row in (0, 1, 2, 9)]
    assert shades == [[32, 64], [0, 0], [128, 191], [128, 191]]
