"""The recipe machine: bars over seeds, rows, and the page made of them."""

from __future__ import annotations

import json
import math

import pytest

from fastgan import recipes
from fastgan.cli import main
from fastgan.recipes import Above, AtLeast, AtMost, Below, Recipe, _book, gan_1d, get, names


def runs(*values: float, name: str = "error") -> list[dict[str, float]]:
    return [{name: value, "other": 1.0} for value in values]


def test_recipes_are_found_by_either_spelling():
    assert "gan_1d" in names()
    assert get("gan-1d") is gan_1d
    assert not any(name.startswith("_") for name in names())


@pytest.mark.parametrize("name", names())
def test_every_recipe_says_what_it_is(name):
    module = get(name)
    recipe = module.RECIPE
    assert recipe.system and recipe.data and recipe.paper
    first = module.__doc__.splitlines()[0]
    assert first.endswith((".", "?", "!")) or ":" in first, f"{name} opens with no sentence: {first!r}"
    assert len(set(recipe.seeds)) == len(recipe.seeds)


# -- bars --------------------------------------------------------------------------------------------------------------


def test_bounds_hold_in_every_seed():
    assert AtMost("error", 0.5).holds(runs(0.1, 0.5))
    assert not AtMost("error", 0.5).holds(runs(0.1, 0.51))
    assert AtLeast("error", 0.5).holds(runs(0.5, 0.9))
    assert not AtLeast("error", 0.5).holds(runs(0.49, 0.9))
    assert not AtMost("error", 0.5).holds(runs(0.1, math.nan)) and not AtLeast("error", 0.5).holds(runs(math.nan))


def test_a_comparison_takes_every_seed_and_two_standard_errors():
    below = Below("error", than="other")
    assert below.holds(runs(0.5, 0.6, 0.55))
    assert not below.holds(runs(0.5, 0.6, 1.01)), "one seed is worse"
    # differences 0.9, 0.05, 0.05: mean 0.333, standard error sqrt(0.2408 / 3) = 0.283
    assert not below.holds(runs(0.1, 0.95, 0.95)), "all are better, but not by two standard errors"
    assert Above("error", than="other").holds(runs(1.5, 1.6, 1.55))
    assert not Above("error", than="other").holds(runs(0.5, 0.6, 0.55))
    assert not below.holds(runs(0.5, math.nan, 0.5))


def test_a_recipe_without_a_bar_or_with_too_few_seeds_is_refused():
    def measure(out, seed):
        return {}

    with pytest.raises(ValueError, match="at least one check"):
        Recipe("X", "data", "none", (), measure)
    with pytest.raises(ValueError, match="three seeds"):
        Recipe("X", "data", "none", (Below("a", than="b"),), measure, seeds=(0, 1))


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(monkeypatch):
    """The recipe gan_1d with a run that takes no time: seed s has the error s / 10."""

    def measure(out, seed):
        assert not list(out.iterdir()), "a seed starts in an empty folder"
        (out / "picture.png").write_bytes(b"picture of seed %d" % seed)
        return {"error": seed / 10, "beside": math.inf}

    made = Recipe("X", "toy | data", "none", (AtMost("error", 0.15),), measure, tried="everything.")
    monkeypatch.setattr(gan_1d, "RECIPE", made)
    return made


def test_reproduce_appends_a_row_a_picture_and_a_page(recipe, tmp_path, capsys):
    out, book = tmp_path / "runs", tmp_path / "docs"
    for _ in range(2):
        assert main(["reproduce", "gan-1d", "--out", str(out), "--book", str(book)]) == 1, "the bar is missed"
    assert "gan_1d: MISSED: error at most 0.15" in capsys.readouterr().out
    rows = [json.loads(line) for line in (book / "reproduction" / "gan_1d.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert rows[0]["measured"] == [{"error": 0.0, "beside": None}, {"error": 0.1, "beside": None}] + [
        {"error": 0.2, "beside": None}
    ]
    assert rows[0]["passed"] is False and rows[0]["seeds"] == [0, 1, 2] and len(rows[0]["minutes"]) == 3
    assert (book / "reproduction" / "gan_1d.png").read_bytes() == b"picture of seed 0"
    page = (book / "REPRODUCTION.md").read_text()
    assert "0 of 1 bars are reached" in page
    assert "| [X](#gan_1d) | toy \\| data | error at most 0.15 | none | error 0.1 ± 0.1 | 3 |" in page
    assert "**missed**: error at most 0.15" in page and "Tried: everything." in page
    assert page.count("commit ") == 2 and "Earlier runs" in page


def test_the_page_is_made_of_the_rows_alone(recipe, tmp_path):
    out = tmp_path / "runs"
    main(["reproduce", "gan_1d", "--out", str(out)])
    page = out / "REPRODUCTION.md"
    written = page.read_text()
    page.unlink()
    assert main(["reproduce", "--page", "--book", str(out)]) == 0
    assert page.read_text() == written


def test_one_seed_is_a_try_and_no_row(recipe, tmp_path, capsys):
    assert main(["reproduce", "gan_1d", "--out", str(tmp_path), "--seed", "1"]) == 0
    assert "error: 0.1" in capsys.readouterr().out
    assert not (tmp_path / "reproduction").exists()


def test_a_run_that_measures_something_else_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(gan_1d, "RECIPE", Recipe("X", "d", "none", (AtMost("loss", 1.0),), recipe.measure))
    with pytest.raises(KeyError, match="measured no 'loss'"):
        _book.reproduce("gan_1d", tmp_path)


def test_all_is_every_recipe(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(_book, "reproduce", lambda name, out: ran.append(name) or {"bar": {}, "passed": True})
    monkeypatch.setattr(_book, "append", lambda row, book, out: None)
    assert main(["reproduce", "all", "--out", str(tmp_path)]) == 0
    assert ran == recipes.names()


def test_the_page_in_the_documentation_is_that_of_its_rows():
    from pathlib import Path

    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "REPRODUCTION.md").read_text(encoding="utf-8") == _book.render(_book.read(docs), docs)
