"""InfoGAN's recipes: what they count, and both run through with a few steps."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan import Batch
from fastgan.architectures.infogan import InfoGAN, Posterior
from fastgan.data.named import ImageArray
from fastgan.recipes import infogan, infogan_scenes
from fastgan.registry import create
from fastgan.training.checkpoint import read_run

TINY = {"image_size": 16, "z_dim": 3, "ngf": 4, "ndf": 4, "hidden": 16, "q_hidden": 8}


def shortened(preset: str, **changes) -> Mapping:
    """InfoGAN's presets, this one with a few steps of tiny networks."""
    short = replace(InfoGAN.presets[preset], steps=2, batch_size=8, size=16, model={**TINY, **changes})
    return {**InfoGAN.presets, preset: short}


@pytest.fixture
def digits(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table like mnist_5k's, in which every digit is grey of its own."""
    home = tmp_path_factory.mktemp("data")
    lines = [",".join([str(25 * digit)] * 784 + [str(digit)]) + "\n" for digit in range(10)]
    (home / "mnist_5k.csv.gz").write_bytes(gzip.compress("".join(line * 500 for line in lines).encode(), 1))
    monkeypatch.setenv("FASTGAN_DATA", str(home))


def test_the_recipe_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: None) -> None:
    monkeypatch.setattr(InfoGAN, "presets", shortened("mnist_5k"))
    for name, short in {"SAMPLES": 20, "STARTS": 2, "SETTLED": 1, "FINALISTS": 1, "STEPS": 2, "EVERY": 1}.items():
        monkeypatch.setattr(infogan, name, short)
    measured = infogan.RECIPE.measure(tmp_path, 0)
    infogan.RECIPE.check_names(measured)
    assert 0.5 < measured["category error"] <= 1 and 1 <= measured["digits that are a category's"] <= 10
    assert 0.8 < measured["gap of the bound to ln 10, relative"] < 2  # two steps find nothing
    assert Image.open(tmp_path / "picture.png").width > 10 * 16 * 3
    least, mean, most = (measured[f"category error of the starts, {which}"] for which in ("least", "mean", "most"))
    assert 0.5 < least <= most <= 1 and mean == (least + most) / 2
    runs = [read_run(tmp_path / f"start-{start}" / "infogan", "last")[0] for start in (1000, 1001)]
    assert sorted(state["step"] for state in runs) == [1, 2], "one start is finished, the other is not"


def test_the_starts_whose_neighbours_agree_most_are_finished_and_the_best_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: InfoGAN, digits: None
) -> None:
    other, trained, drawn = create("infogan", **TINY, channels=1).eval(), [], []
    agreements = {3000: [1.5], 3001: [1.7, 1.8], 3002: [1.6, 1.9], 3003: [0.2]}

    def run(out: Path, seed: int, steps: int, metric: infogan.Agreement) -> infogan.Run:
        trained.append((seed, steps))
        return infogan.Run(reader if seed == 3002 else other, agreements[seed].pop(0))

    monkeypatch.setattr(infogan, "run", run)
    monkeypatch.setattr(infogan, "STARTS", 4)
    monkeypatch.setattr(infogan, "save_traversals", lambda gan, file, order: drawn.append(gan))
    infogan.measure(tmp_path, 2)
    assert trained[:4] == [(start, 4000) for start in (3000, 3001, 3002, 3003)]
    assert sorted(trained[4:]) == [(3001, 7000), (3002, 7000)] and drawn == [reader]


def test_what_is_said_of_the_starts(monkeypatch: pytest.MonkeyPatch, reader: InfoGAN) -> None:
    errors = iter([0.4, 0.1, 0.25])
    monkeypatch.setattr(infogan, "sort_digits", lambda gan, splits: infogan.Sorted(None, e := next(errors), e + 0.01))
    starts = [infogan.Run(reader, agreement) for agreement in (1.2, 1.9, 1.5)]
    assert list(infogan.compare_starts(starts, []).values()) == pytest.approx([0.11, 0.26, 0.41, 1.0])


def test_a_run_keeps_the_best_it_has_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: None) -> None:
    monkeypatch.setattr(InfoGAN, "presets", shortened("mnist_5k"))
    monkeypatch.setattr(infogan, "EVERY", 1)
    values = iter([0.5, 0.7, 0.6])  # after 1, 2 and 3 steps
    seen = []

    def agreement(gan: InfoGAN) -> tuple[str, float, bool]:
        seen.append(gan.recognition.layers[-1].weight.clone())
        return "agreement", next(values), False

    assert infogan.run(tmp_path, 0, 1, agreement).agreement == 0.5
    best = infogan.run(tmp_path, 0, 3, agreement)
    assert best.agreement == 0.7 and next(values, None) is None, "the second call goes on from the first"
    assert torch.equal(best.gan.recognition.layers[-1].weight, seen[1])
    assert not torch.equal(seen[1], seen[2]) and not best.gan.training


def test_what_neighbours_know_of_each_others_category() -> None:
    neighbours = torch.tensor([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]])  # two groups of three

    def nats(*categories: int) -> float:
        return infogan.shared_information(torch.tensor(categories), neighbours, 4)

    assert nats(1, 1, 1, 3, 3, 3) == pytest.approx(math.log(2))
    assert nats(2, 2, 2, 2, 2, 2) == 0  # who puts all in one is told nothing
    # every image of 0 has two neighbours of 1 and the like: (0, 0) twice, (0, 1), (1, 0), (1, 1) four times of 12
    assert nats(0, 0, 1, 1, 1, 0) == pytest.approx(2 * (2 / 12) * math.log(2 / 3) + 2 * (4 / 12) * math.log(4 / 3))


def test_nearest_neighbours() -> None:
    grey = torch.tensor([0, 200, 10, 30, 190, 2, 45, 180])
    images = grey[:, None, None, None].expand(-1, 1, 16, 16).to(torch.uint8).contiguous()
    found = infogan.nearest_neighbours(ImageArray("eight", images, image_size=16))
    assert found[0].tolist() == [5, 2, 3, 6, 7] and found[1].tolist() == [4, 7, 6, 3, 2]


def test_the_recipe_on_scenes_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infogan_scenes, "PRESET", shortened("scenes", categorical=0)["scenes"])
    monkeypatch.setattr(infogan_scenes, "IMAGES", 50)
    measured = infogan_scenes.RECIPE.measure(tmp_path, 0)
    infogan_scenes.RECIPE.check_names(measured)
    single = [value for name, value in measured.items() if name.startswith("code ")]
    assert len(single) == 4 and measured["largest rank correlation"] == max(single) < 0.95
    assert (tmp_path / "picture.png").exists()


def test_a_category_is_called_by_its_most_frequent_label() -> None:
    categories = torch.tensor([0, 0, 0, 2, 2, 2, 2])
    labels = torch.tensor([4, 4, 1, 3, 0, 3, 4])
    names = infogan.category_names(categories, labels, 3)
    assert names.tolist() == [4, 0, 3]
    assert infogan.error(names[categories], labels) == pytest.approx(3 / 7)


class Reader(InfoGAN):
    """Shows the codes in the image's first pixels, and reads them there."""

    def generate(self, batch: Batch) -> torch.Tensor:
        image = torch.zeros(len(batch), 1, 16, 16)
        image.flatten(1)[:, : self.latent_dim] = batch.latent
        return image

    def codes(self, image: torch.Tensor) -> Posterior:
        _, categorical, continuous = self.split(image.flatten(1)[:, : self.latent_dim])
        return Posterior(50 * categorical, continuous, torch.zeros_like(continuous))


@pytest.fixture
def reader() -> InfoGAN:
    gan = create("infogan", **TINY, channels=1)
    gan.__class__ = Reader
    return gan


def test_the_bound_of_codes_that_can_be_read(reader: InfoGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infogan, "SAMPLES", 1000)
    nats = infogan.bound(reader)
    assert nats["categorical"] == pytest.approx(math.log(10), abs=1e-5)
    assert nats["continuous"] == pytest.approx(2 * (math.log(2) - 0.5 * math.log(2 * math.pi)), abs=1e-5)


def test_the_posterior_of_a_data_set(reader: InfoGAN) -> None:
    index = torch.arange(600)  # more than one batch
    images = torch.zeros(600, 1, 16, 16, dtype=torch.uint8)
    images.flatten(1)[index, 3 + index % 7] = 255  # after three columns of noise
    images.flatten(1)[index, 3 + 10 + 1] = (255 * (index % 2)).to(torch.uint8)
    logits, means, log_std = infogan.posterior(reader, ImageArray("six hundred", images, image_size=16))
    assert torch.equal(logits[:, 0].argmax(1), index % 7)
    assert torch.equal(means, torch.stack([-torch.ones(600), 2.0 * (index % 2) - 1], dim=1))
    assert log_std.shape == (600, 2)


def test_agreement_is_the_better_the_more_of_it(reader: InfoGAN) -> None:
    index = torch.arange(700)
    images = torch.zeros(700, 1, 16, 16, dtype=torch.uint8)
    images.flatten(1)[index, 3 + index % 7] = 255  # a hundred of each category, all alike
    metric = infogan.Agreement(ImageArray("seven hundred", images, image_size=16))
    name, value, lower_is_better = metric(reader)
    assert value == pytest.approx(math.log(7)) and not lower_is_better and name == metric.name


def test_the_picture_has_a_row_for_each_category_in_order(reader: InfoGAN, tmp_path: Path) -> None:
    order = torch.tensor([9, 3, 0, 1, 2, 4, 5, 6, 7, 8])
    infogan.save_traversals(reader, tmp_path / "picture.png", order)
    picture = torch.tensor(list(Image.open(tmp_path / "picture.png").convert("L").tobytes()))
    zoom = 2  # of 16 px in cells of 32
    columns, cell = 3 * 10 + 2, 16 * zoom + 2
    picture = picture.reshape(10 * cell + 2, columns * cell + 2)
    for row, category in enumerate(order.tolist()):
        for column in (0, 5, 11, 31):
            left = 2 + column * cell + zoom * (3 + category)
            assert picture[2 + row * cell, left] == 255, "the category's pixel is white in all panels"
    codes = picture[2, 2 + 11 * cell + zoom * 13 :: cell][:10].tolist()  # the first code along its panel
    assert codes == [round(255 * i / 9) for i in range(10)]


def test_rank_correlations() -> None:
    factor = torch.tensor([0.1, 0.7, 0.3, 0.9, 0.5])
    codes = torch.stack([factor.exp(), -(factor**3), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])], 1)
    # ranks of the factor 0 3 1 4 2 against 0 1 2 3 4: 1 - 6 (4 + 1 + 1 + 4) / (5 * 24)
    assert infogan_scenes.rank_correlations(codes, factor).tolist() == pytest.approx([1.0, -1.0, 0.5])
