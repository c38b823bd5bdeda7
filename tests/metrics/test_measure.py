"""Measure: names, one pass, any split, order of corruptions, and what it refuses."""

import warnings

import pytest
import torch

from fastgan.data import load, normalize
from fastgan.data.gaussian import Gaussian
from fastgan.metrics import METRICS, Measure, frechet_distance, inception_score, kernel_distance
from fastgan.metrics.classifier import ClassifierFeatures

ALL = ("fid", "kid", "prdc")
FID = "fid[random_conv_v1]"


@pytest.fixture(scope="module")
def scenes():
    real, other = (load("scenes", image_size=24, size=400, split=split) for split in ("train", "test"))
    return Measure(real, ALL, n=400), normalize(other.batch(range(400))["image"])


def test_every_value_bears_its_net(scenes):
    measure, images = scenes
    names = ["fid", "kid", "kid_std", "precision", "recall", "density", "coverage"]
    assert list(measure(images)) == [f"{name}[random_conv_v1]" for name in names]
    assert all(METRICS[name].lower_is_better == (name in ("fid", "kid")) for name in METRICS)


def test_values_are_those_of_the_functions(scenes):
    measure, images = scenes
    real = normalize(measure.dataset.batch(range(400))["image"])
    a, b = measure.net(real).double(), measure.net(images).double()
    found = measure(images)
    fid = frechet_distance(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert found[FID] == pytest.approx(fid, rel=1e-4)
    assert found["kid[random_conv_v1]"] == pytest.approx(kernel_distance(a, b)[0], rel=1e-3)


@pytest.mark.parametrize("batch_size", [7, 399])
def test_any_batch_size_gives_the_same(scenes, batch_size):
    measure, images = scenes
    other = Measure(measure.dataset, ALL, n=400, batch_size=batch_size)(images)
    for name, value in measure(images).items():  # features round differently, and one may cross the edge of a ball
        assert other[name] == pytest.approx(value, rel=1e-4, abs=1 / 400 if name[0] in "prdc" else 0)


def test_generate_is_called_for_n_images_and_equals_the_tensor(scenes):
    measure, images = scenes
    asked = []

    def generate(count):
        start = sum(asked)
        asked.append(count)
        return images[start : start + count]

    assert measure(generate) == measure(images)
    assert asked == [256, 144]


def test_corruptions_come_in_order(scenes):
    measure, images = scenes
    real = measure(images)
    blurred = measure(torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False))
    noise = measure(torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert 3 * real[FID] < blurred[FID] and 5 * blurred[FID] < noise[FID]
    assert real["kid[random_conv_v1]"] < blurred["kid[random_conv_v1]"] < noise["kid[random_conv_v1]"]
    for metric in ("precision", "recall", "density", "coverage"):
        assert noise[measure.label(metric)] < 0.1 < real[measure.label(metric)]


def test_collapse_and_layout_are_seen(scenes):
    measure, images = scenes
    real, collapsed = measure(images), measure(images[:10].repeat(40, 1, 1, 1))
    assert collapsed[FID] > 4 * real[FID]
    assert collapsed["recall[random_conv_v1]"] < 0.1 < 0.5 < collapsed["precision[random_conv_v1]"]
    assert measure(images.flip(2))[FID] > 10 * real[FID]  # sky below, ground above


def test_the_real_side_is_measured_once_and_draws_no_randomness(scenes):
    measure, images = scenes
    state = torch.random.get_rng_state()
    first = measure(images)
    statistics = measure._real
    assert measure(images) == first and measure._real is statistics
    assert Measure(measure.dataset, ALL, n=400)(images) == first
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nan_images_give_nan_not_an_exception(scenes):
    measure, images = scenes
    assert all(value != value for value in measure(images * float("nan")).values())


def test_points_have_a_distance_too():
    data = Gaussian(500)
    measure = Measure(data, n=500)
    near = measure(Gaussian(500, seed=1).batch(range(500))["image"])[FID]
    far = measure(Gaussian(500, mean=2.0, seed=1).batch(range(500))["image"])[FID]
    assert 10 * near < far


def test_inception_score_by_a_net_with_classes():
    net = ClassifierFeatures(channels=3, image_size=16, classes="abc", data="letters").freeze()
    net.classify.weight.mul_(1000)
    data = load("scenes", image_size=16, size=60)
    images = normalize(data.batch(range(60))["image"])
    expected = inception_score(net.head(net(images)))
    assert Measure(data, ["is"], n=60, features=net, batch_size=25)(images) == {
        f"is[{net.name}]": pytest.approx(expected[0], rel=1e-5),
        f"is_std[{net.name}]": pytest.approx(expected[1], rel=1e-3),
    }
    assert 1.05 < expected[0] < 3


def test_few_images_for_fid_are_measured_with_a_warning():
    data = load("scenes", image_size=16, size=260)
    with pytest.warns(
        UserWarning, match="fid of 200 images with the 256 features of random_conv_v1: the covariance is"
    ):
        Measure(data, ["fid"], n=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Measure(data, ["fid"], n=257)
        Measure(data, ["kid", "prdc"], n=200)


def test_bad_input_is_named(scenes):
    measure, images = scenes
    dataset = measure.dataset
    with pytest.raises(ValueError, match=r"metrics takes any of fid, kid, .* and prdc, got 'fdi'; did you mean 'fid'"):
        Measure(dataset, ["fdi"])
    with pytest.raises(ValueError, match="fid takes at least 2 generated and as many real images, got n=1"):
        Measure(dataset, n=1)
    with pytest.raises(ValueError, match="precision takes at least 4 .* a data set of 3"):
        Measure(load("scenes", image_size=16, size=3), ["prdc"])
    with pytest.raises(ValueError, match="Inception Score needs a net with classes; random_conv_v1 has none"):
        Measure(dataset, ["is"])
    with pytest.raises(
        ValueError, match=r"images takes shape \(N, 3, 24, 24\) like the data set 'scenes', got \(256, 1, 24, 24\)"
    ):
        measure(images[:, :1])
    with pytest.raises(TypeError, match=r"images takes floating values in \[-1, 1\], got torch.uint8"):
        measure(dataset.batch([0, 1])["image"])
