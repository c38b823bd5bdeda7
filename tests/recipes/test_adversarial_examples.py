"""The recipe of adversarial training, shortened, and its attacks where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from fastgan.data import load
from fastgan.recipes import adversarial_examples


@pytest.fixture
def line() -> nn.Module:
    """Two pixels: class 1 where the first is larger."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    return net


def test_the_recipe_runs_through(tmp_path, monkeypatch):
    preset = replace(adversarial_examples.PRESET, data="scenes", steps=3, batch_size=8, size=30)
    monkeypatch.setattr(adversarial_examples, "PRESET", preset)
    monkeypatch.setattr(adversarial_examples, "load", lambda name, **options: load("scenes", size=20, **options))
    measured = adversarial_examples.RECIPE.measure(tmp_path, 0)
    adversarial_examples.RECIPE.check_names(measured)
    assert measured["trained: clean error"] <= measured["trained: error under the fast gradient sign"] <= 1
    # five columns, a row of titles and one an image
    assert Image.open(tmp_path / "picture.png").size == (5 * (84 + 4), 7 * (84 + 4 + 12))


def test_descent_finds_the_corner_and_stays_in_the_box(line):
    torch.manual_seed(0)
    images, labels = torch.tensor([[0.2, 0.0], [-0.9, 0.9]]).view(2, 1, 1, 2), torch.tensor([1, 0])
    found = adversarial_examples.descend(line, images, labels, 0.3)
    assert torch.allclose(found.flatten(1), torch.tensor([[-0.1, 0.3], [-0.6, 0.6]]), atol=1e-6)
    edge = adversarial_examples.descend(line, -images, labels, 0.3).flatten(1)
    assert torch.allclose(edge, torch.tensor([[-0.5, 0.3], [1.0, -1.0]]), atol=1e-6), "no pixel beyond -1 or 1"


def test_random_signs_are_as_large_as_the_attack():
    torch.manual_seed(0)
    signs = adversarial_examples.random_signs(torch.zeros(50, 1, 4, 4))
    assert set(signs.unique().tolist()) == {-0.5, 0.5} and signs.mean().abs() < 0.1


def test_the_error_is_the_share_of_wrong_answers(line):
    images = torch.tensor([[0.2, 0.0], [-0.9, 0.9], [0.5, 0.1]]).view(3, 1, 1, 2)
    assert adversarial_examples.error(line, images, torch.tensor([1, 0, 0])) == pytest.approx(1 / 3)
