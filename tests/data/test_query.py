"""What follows a name: factors of scenes, kept labels, and what is refused."""

import pytest
import torch

from fastgan.data import load
from fastgan.data.query import read_query


def test_values_by_key():
    assert read_query("scenes", "label=color&vary=x,yaw", ("label", "vary")) == {"label": "color", "vary": "x,yaw"}
    assert read_query("scenes", "vary=x%2Cyaw", ("vary",)) == {"vary": "x,yaw"}
    assert read_query("scenes", "", ("vary",)) == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes?lable=color", r"takes label=, vary=, labels=, got 'lable'; did you mean 'label'"),
        ("scenes?label", "not of the form scenes.key=value&key=value"),
        ("scenes?labels=6&labels=12", "gives 'labels' twice"),
        ("scenes?label=colour", r"label takes shape, .*, got 'colour'; did you mean 'color'"),
        ("scenes?vary=shape,yow", r"vary takes some of shape, .*, got 'yow'; did you mean 'yaw'"),
        ("scenes?vary=x,x", "each once"),
        ("scenes?labels=many", "labels takes a number of images that keep their label, got 'many'"),
        ("scenes?labels=-6", "got '-6'"),
        ("scenes?labels=0", "takes a multiple of the 6 classes"),
        ("gaussian?labels=10", "gaussian takes nothing after a question mark, got 'labels'"),
        ("gaussians_8?vary=x", "gaussians_8 takes labels=, got 'vary'"),
    ],
)
def test_what_is_not_understood_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        load(spec, image_size=8, size=60)


def test_a_misspelt_name_is_not_taken_for_a_bad_query():
    with pytest.raises(FileNotFoundError, match=r"'scene' is neither .*; did you mean 'scenes'"):
        load("scene?labels=6")


def test_a_path_may_hold_a_question_mark(tmp_path):
    from PIL import Image

    for name in ("cats?big", "plain"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / name / label / "0.png")
    assert len(load(tmp_path / "cats?big", image_size=8)) == 2
    assert load(f"{tmp_path / 'plain'}?labels=2", image_size=8).labels.tolist() == [-1, 0, -1, 1]


def test_queries_reach_scenes():
    dataset = load("scenes?label=color&vary=color,x", image_size=8, size=40)
    assert dataset.classes[3] == "green" and torch.equal(dataset.labels, dataset.factors(range(40))["color"])
    assert list(dataset.continuous(range(40))) == ["x"]
    assert dataset.describe().startswith("scenes?label=color&vary=color,x: 40 images, 8 classes")
    assert load("scenes?vary=x&labels=60&label=position", image_size=8, size=300).name == (
        "scenes?label=position&vary=x&labels=60"
    )
