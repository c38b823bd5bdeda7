"""Scenes: reproducible, labelled, rich, and not solved by a linear model."""

import numpy as np
import pytest
import torch

from fastgan.data import load, normalize
from fastgan.data.scene_render import SHAPES, render
from fastgan.data.scenes import CONTINUOUS, FACTORS, HELD_OUT, Scenes

SIZES = (16, 32, 64, 128, 256)


def test_image_depends_on_seed_split_and_index_alone():
    many, few = Scenes(100, image_size=32), Scenes(10, image_size=32)
    assert torch.equal(many.batch([3, 9])["image"][1], few[9]["image"])
    assert torch.equal(many.factors([9])["shape"], few.factors(range(10))["shape"][9:])
    for other in (Scenes(10, image_size=32, seed=1), Scenes(10, image_size=32, split="test")):
        assert not torch.equal(other[9]["image"], few[9]["image"])


@pytest.mark.parametrize("size", SIZES)
def test_images_fill_the_range_at_every_size(size):
    dataset = Scenes(6, image_size=size)
    images = dataset.batch(range(6))["image"]
    assert images.shape == (6, 3, size, size) and images.dtype == torch.uint8
    spread = images.flatten(1).float().std(1)
    assert spread.min() > 12  # no blank picture


def test_the_same_scene_is_shown_at_every_size():
    large, small = (normalize(Scenes(16, image_size=s).batch(range(16))["image"]) for s in (128, 32))
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    error = (shrunk - small).abs().mean((1, 2, 3))
    shuffled = (shrunk.roll(1, 0) - small).abs().mean((1, 2, 3))
    assert error.max() < 0.08 < shuffled.min()


def test_factors_are_balanced_and_independent():
    factors = Scenes(1).factors(range(20000))
    assert list(factors) == list(FACTORS) and len(FACTORS) >= 8
    for name, values in factors.items():
        share = torch.bincount(values, minlength=len(FACTORS[name])) / len(values)
        assert (share > 0.6 / len(FACTORS[name])).all(), name
    together = torch.bincount(factors["shape"] * 4 + factors["ground"], minlength=24) / 20000
    assert (together - 1 / 24).abs().max() < 0.01


def test_labels_are_shapes_and_factors_agree_with_them():
    dataset = Scenes(50, image_size=16)
    assert dataset.classes == SHAPES
    assert torch.equal(dataset.batch(range(50))["label"], dataset.factors(range(50))["shape"])


def test_held_out_pairs_are_seen_in_their_split_alone():
    def pairs(split):
        factors = Scenes(1, split=split).factors(range(4000))
        return {
            (FACTORS["shape"][s], FACTORS["color"][c])
            for s, c in zip(factors["shape"].tolist(), factors["color"].tolist(), strict=True)
        }

    held_out = set(HELD_OUT.items())
    assert pairs("held_out") == held_out
    for split in ("train", "test"):
        assert not pairs(split) & held_out
        assert len(pairs(split)) == len(SHAPES) * len(FACTORS["color"]) - len(held_out)


def test_segments_follow_the_factors():
    dataset = Scenes(60, image_size=64)
    factors, masks = dataset.factors(range(60)), dataset.segments(range(60))
    area = {k: (masks == k).flatten(1).sum(1) for k in range(4)}
    assert masks.shape == (60, 64, 64) and sum(area.values()).eq(64 * 64).all()
    assert (area[0] > 0).all() and (area[1] > 0).all()
    alone = factors["neighbor"] == 0
    assert (area[3][alone] == 0).all() and (area[3][~alone] > 0).float().mean() > 0.9
    visible = (factors["neighbor"] != FACTORS["neighbor"].index("in front")).nonzero().flatten()
    assert (area[2][visible] > 40).all()
    by_size = [area[2][(factors["size"] == k) & alone].float().mean() for k in range(3)]
    assert by_size[0] < by_size[1] < by_size[2]
    columns = torch.arange(64.0)
    centre = ((masks == 2) * columns).sum((1, 2)) / area[2].clamp(min=1)
    by_place = [centre[(factors["position"] == k) & alone].mean() for k in range(3)]
    assert by_place[0] + 6 < by_place[1] < by_place[2] - 6


def scene(**changes):
    solid = {
        "number": 2, "shape": "sphere", "scale": 0.8, "x": 0.0, "z": 5.0, "yaw": 0.3, "texture": "plain",
        "shiny": False,
        "colors": (np.array([0.9, 0.1, 0.1], np.float32), np.array([0.9, 0.8, 0.8], np.float32)),
    }  # fmt: skip
    solid |= {k: changes.pop(k) for k in list(changes) if k in solid}
    rest = {
        "sky": "clear", "ground": "plain", "points": np.full((16, 2), 0.5, np.float32), "solids": [solid],
        "camera": 1.4,
        "azimuth": 0.0, "elevation": 0.8, "brightness": 1.0, "sky_hue": 0.6, "haze_hue": 0.1, "ground_hue": 0.2,
        "sky_saturation": 0.5, "ground_saturation": 0.5, "ground_value": 0.5, "ground_scale": 0.5,
    }  # fmt: skip
    return rest | changes


@pytest.mark.parametrize("shape", SHAPES)
def test_the_side_towards_the_light_is_brighter(shape):
    for azimuth, bright in ((1.2, "right"), (-1.2, "left")):
        # an edge of the polyhedron towards the camera, a flat side to the left and to the right of it
        image, mask = render(scene(shape=shape, azimuth=azimuth, yaw=0.0 if shape == "gem" else np.pi / 4), 64)
        columns = np.nonzero(mask == 2)[1]
        middle = (columns.min() + columns.max()) / 2
        value = image.mean(2)[mask == 2]
        left, right = value[columns < middle].mean(), value[columns > middle].mean()
        assert (right > left * 1.1) if bright == "right" else (left > right * 1.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shadow_falls_away_from_the_light(shape):
    shone, _ = render(scene(shape=shape, azimuth=1.2), 64)
    bare, _ = render(scene(shape=shape, azimuth=1.2, solids=[]), 64)
    _, mask = render(scene(shape=shape), 64)
    darker = ((bare - shone).mean(2) > 0.05) & (mask == 1)
    assert darker.sum() > 15
    assert np.nonzero(darker)[1].mean() < 30  # light from the right, shadow to the left


def test_sphere_silhouette_is_where_the_projection_puts_it():
    _, mask = render(scene(camera=1.4), 128)
    rows, columns = np.nonzero(mask == 2)
    assert abs((columns.min() + columns.max()) / 2 - 63.5) <= 1
    distance = np.hypot(5.0, 1.4 - 0.8 * 0.85)
    radius = 128 / 2 / 0.38 * np.tan(np.arcsin(0.8 * 0.85 / distance))
    assert (columns.max() - columns.min() + 1) / 2 == pytest.approx(radius, rel=0.06)
    assert rows.max() - rows.min() + 1 == pytest.approx(columns.max() - columns.min() + 1, rel=0.08)


def test_edges_are_antialiased():
    image, mask = render(scene(elevation=0.8), 64)
    red = image[..., 0] - image[..., 1]
    row = red[np.nonzero(mask == 2)[0].min() + 6]
    inside, outside = row.max(), np.median(row)
    between = (row > outside + 0.15 * (inside - outside)) & (row < outside + 0.85 * (inside - outside))
    assert between.any()


@pytest.mark.parametrize("factor", ["texture", "material", "sky", "ground"])
def test_each_kind_changes_the_picture(factor):
    pictures = []
    for kind in FACTORS[factor]:
        key, value = ("shiny", kind == "shiny") if factor == "material" else (factor, kind)
        pictures.append(render(scene(**{key: value, "azimuth": 0.8}), 64)[0])
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert (np.abs(a - b).max(2) > 0.05).sum() >= 12


def test_captions_have_many_wordings_and_name_the_facts():
    dataset = Scenes(3000)
    captions = [dataset.caption(i) for i in range(400)]
    assert captions[:5] == [Scenes(3000).caption(i) for i in range(5)]
    assert len(set(captions)) > 395
    factors = dataset.factors(range(400))
    for i, caption in enumerate(captions):
        assert FACTORS["color"][factors["color"][i]] in caption
        if (neighbor := FACTORS["neighbor_color"][factors["neighbor_color"][i]]) != "none":
            assert neighbor in caption
        assert "  " not in caption and "{" not in caption


def test_one_scene_has_over_200_wordings():
    from fastgan.data import scene_captions

    words = {name: options[-1] for name, options in FACTORS.items()}
    rng = np.random.default_rng(0)
    wordings = {scene_captions.caption(words, rng.random(scene_captions.CHOICES)) for _ in range(1000)}
    assert len(wordings) > 900


def test_a_linear_classifier_does_not_solve_any_factor():
    # ridge regression onto one-hot labels, the best of three strengths; the bound is the data set's promise
    def pixels(split, count):
        dataset = Scenes(count, image_size=16, split=split)
        x = normalize(dataset.batch(range(count))["image"]).flatten(1).double()
        return torch.cat([x, torch.ones(count, 1)], 1), dataset.factors(range(count))

    (x, truth), (x_test, truth_test) = pixels("train", 2500), pixels("test", 600)
    targets = [torch.nn.functional.one_hot(truth[name], len(options)) for name, options in FACTORS.items()]
    projected = x.T @ torch.cat(targets, 1).double()
    for strength in (1.0, 30.0, 1000.0):
        weights = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]), projected)
        scores = (x_test @ weights).split([len(options) for options in FACTORS.values()], 1)
        for name, score in zip(FACTORS, scores, strict=True):
            accuracy = (score.argmax(1) == truth_test[name]).double().mean().item()
            assert accuracy < 0.95, name


def test_channels_and_description():
    assert load("scenes", image_size=16, channels=1, size=2)[0]["image"].shape == (1, 16, 16)
    assert load("scenes", image_size=16, channels=4, size=2)[0]["image"][3].eq(255).all()
    assert load("scenes", size=7).describe() == (
        "scenes: 7 images, 6 classes, 3x64x64, made on the fly, split train, seed 0"
    )


def test_the_label_is_the_factor_asked_for():
    dataset = Scenes(50, image_size=8, label="sky")
    assert dataset.classes == FACTORS["sky"]
    assert torch.equal(dataset.batch(range(50))["label"], dataset.factors(range(50))["sky"])
    assert torch.equal(dataset.batch(range(50))["image"], Scenes(50, image_size=8).batch(range(50))["image"])


@pytest.mark.parametrize("name", ["shape", "texture", "sky", "ground"])
def test_a_factor_that_varies_alone_makes_one_picture_a_value(name):
    dataset = Scenes(60, image_size=32, vary=[name])
    images, values = dataset.batch(range(60))["image"], dataset.factors(range(60))[name]
    pictures = [images[values == value] for value in range(len(FACTORS[name]))]
    assert all(len(group) and group.eq(group[0]).all() for group in pictures)
    assert len(torch.stack([group[0] for group in pictures]).unique(dim=0)) == len(FACTORS[name])
    others = dataset.factors(range(60))
    assert all(len(others[other].unique()) == 1 for other in FACTORS if other != name)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_every_continuous_value_can_be_seen(name):
    # a plain ground has no scale; a neighbor has two textures, and its side moves it only a little in depth
    seen_with, least = {"ground_scale": ["ground"]}.get(name, []), {"neighbor_texture": 2, "neighbor_side": 10}
    dataset = Scenes(40, image_size=32, vary=[name, *seen_with])
    truth = dataset.continuous(range(40))
    assert list(truth) == [name] and truth[name].min() >= 0 and truth[name].max() < 1
    assert len(dataset.batch(range(40))["image"].unique(dim=0)) >= least.get(name, 20)


def test_x_is_the_place_and_scale_the_area():
    dataset = Scenes(60, image_size=64, vary=("x", "scale"))
    truth, solid = dataset.continuous(range(60)), dataset.segments(range(60)) == 2
    place = (solid * torch.arange(64)).sum((1, 2)) / solid.sum((1, 2))
    assert torch.corrcoef(torch.stack([truth["x"], place]))[0, 1] > 0.99
    width = solid.any(1).sum(1).double()
    assert torch.corrcoef(torch.stack([truth["scale"], width]))[0, 1] > 0.97


def test_yaw_turns_a_cube_from_its_face_to_its_edge():
    dataset = Scenes(80, image_size=64, vary="yaw")
    yaw, solid = dataset.continuous(range(80))["yaw"], dataset.segments(range(80)) == 2
    assert yaw.max() < 1 / 8 and yaw.max() - yaw.min() > 0.11
    width = solid.any(1).sum(1).double()
    assert torch.corrcoef(torch.stack([yaw, width]))[0, 1] > 0.9
    # sqrt 2 times as wide, but its front face is nearer than its corners: (sqrt 2 .53 / 5) / (.53 / (5 - .53))
    assert width[yaw.argmax()] / width[yaw.argmin()] == pytest.approx(1.26, rel=0.08)


def test_what_is_told_of_a_neighbor_needs_one():
    factors = Scenes(40, image_size=8, vary=("neighbor_color",)).factors(range(40))
    assert factors["neighbor"].unique().tolist() == [FACTORS["neighbor"].index("beside")]
    assert len(factors["neighbor_color"].unique()) > 4 and 0 not in factors["neighbor_color"]
    assert Scenes(40, image_size=8, vary=("x",)).factors(range(40))["neighbor"].eq(0).all()


def test_pairs_are_held_out_where_both_vary():
    colors = Scenes(400, image_size=8, vary=("color",)).factors(range(400))["color"]
    assert len(colors.unique()) == len(FACTORS["color"])  # the cube's own held-out color among them
    both = Scenes(400, image_size=8, vary=("shape", "color")).factors(range(400))
    held_out = torch.tensor([FACTORS["color"].index(HELD_OUT[shape]) for shape in SHAPES])
    assert not (both["color"] == held_out[both["shape"]]).any()
    apart = Scenes(40, image_size=8, split="held_out", vary=("shape", "color")).factors(range(40))
    assert torch.equal(apart["color"], held_out[apart["shape"]])
    with pytest.raises(ValueError, match="vary takes both for it"):
        Scenes(10, image_size=8, split="held_out", vary=("shape",))


def test_continuous_values_are_those_beneath_the_factors():
    dataset = Scenes(200, image_size=8)
    truth, factors = dataset.continuous(range(200)), dataset.factors(range(200))
    assert tuple(truth) == CONTINUOUS
    for factor, name in (("size", "scale"), ("position", "x"), ("light", "azimuth")):
        assert torch.equal((truth[name] * 3).long(), factors[factor])
    assert torch.equal(truth["yaw"][7:9], dataset.continuous([7, 8])["yaw"])
