"""The game xy: every method does what the mathematics say, and the recipe tells when one does not."""

from __future__ import annotations

import math

import pytest
import torch

from fastgan.recipes import min_max
from fastgan.recipes.min_max import METHODS, RECIPE, difference, slopes

START = torch.tensor([0.6, -0.8], dtype=torch.float64)


def test_recipe_reaches_its_bar(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure: pip install 'fastgan[plots]'")
    measured = RECIPE.measure(tmp_path, 0)
    RECIPE.check_names(measured)
    assert all(check.holds([measured]) for check in RECIPE.checks), measured
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_slopes_of_both_players():
    point = torch.tensor([2.0, 3.0])
    assert torch.equal(slopes(point), torch.tensor([3.0, -2.0])), "x goes down f, y up"
    assert torch.equal(slopes(point, penalty=0.5), torch.tensor([3.0, -2.0 + 0.5 * 3.0])), "y pays for its own size"


def test_one_step_of_each_method_by_hand():
    x, y, h = 0.6, -0.8, 0.1
    first = {name: method(START, h, 1)[1].tolist() for name, method in METHODS.items()}
    new_x = x - h * y
    assert first["simultaneous"] == pytest.approx([new_x, y + h * x])
    assert first["alternating"] == pytest.approx([new_x, y + h * new_x])
    assert first["penalised"] == pytest.approx([new_x, y + h * (new_x - y)])
    assert first["averaged"] == pytest.approx([(x + new_x) / 2, (y + y + h * new_x) / 2])
    assert first["extragradient"] == pytest.approx([x - h * (y + h * x), y + h * (x - h * y)])
    assert first["optimistic"] == pytest.approx(first["simultaneous"]), "nothing came before the first step"


def test_penalised_falls_by_the_root_of_its_determinant():
    path = METHODS["penalised"](START, 0.1, 950)
    turn = math.acos((2 - 0.01 - 0.1) / 2 / math.sqrt(0.9))  # from the trace: a step turns by so much
    a, b = 200, 200 + round(20 * math.pi / turn)  # ten turns
    assert (path[b].norm() / path[a].norm()).log().item() / (b - a) == pytest.approx(math.log(0.9) / 2, rel=0.05)


@pytest.mark.parametrize("name", ["simultaneous", "alternating", "extragradient", "optimistic"])
def test_another_step_size_is_noticed(name, monkeypatch):
    monkeypatch.setattr(min_max, "STEPS", 200)
    paths = {other: method(START, min_max.STEP_SIZE, 200) for other, method in METHODS.items()}
    assert difference(paths) < 1e-12
    paths[name] = METHODS[name](START, 1.001 * min_max.STEP_SIZE, 200)
    assert difference(paths) > 1e-6
