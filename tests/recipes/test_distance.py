"""The recipes that hold a run's feature distance to that at a tenth of it, shortened to a few steps on few scenes."""

from __future__ import annotations

import pytest
import torch

from fastgan.architectures.base import Preset
from fastgan.architectures.dcgan import DCGAN
from fastgan.architectures.gan import GAN
from fastgan.data import load
from fastgan.metrics import Measure
from fastgan.metrics.classifier import ClassifierFeatures
from fastgan.recipes import _distance, dcgan_cifar10, dcgan_fashion_mnist, gan
from fastgan.recipes._distance import Distances, last_fifth, mean, tenth_and_end
from fastgan.recipes._run import train

SMALL = Preset("scenes", 10, batch_size=4, model={"image_size": 16, "ngf": 4, "ndf": 4}, size=40)
pytestmark = pytest.mark.filterwarnings("ignore:fid of")


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(_distance, "N", 24)


@pytest.mark.parametrize(("recipe", "preset"), [(dcgan_cifar10, "cifar10"), (dcgan_fashion_mnist, "fashion_mnist")])
def test_dcgan_runs_through(recipe, preset, tmp_path, monkeypatch):
    monkeypatch.setitem(DCGAN.presets, preset, SMALL)
    measured = recipe.RECIPE.measure(tmp_path, 0)
    recipe.RECIPE.check_names(measured)
    ratio = measured["distance at the end"] / measured["distance at 10%"]
    assert measured["distance at the end / at 10%"] == pytest.approx(ratio) and ratio > 0
    assert measured["distance of real images"] < measured["distance at 10%"], "ten steps make no better than the data"
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_both_generators_are_measured_at_their_steps_and_training_does_not_notice(tmp_path):
    distances = Distances((1, 10))
    watched = train("dcgan", SMALL, tmp_path / "watched", 0, callbacks=[distances])
    assert set(distances.averaged) == set(distances.live) == {1, 10}
    assert distances.averaged[10] != distances.live[10], "one of the two was measured twice"
    alone = train("dcgan", SMALL, tmp_path / "alone", 0)
    for a, b in zip(watched.architecture.parameters(), alone.architecture.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_averaged_one_is_what_a_measure_of_its_samples_finds(tmp_path):
    distances = Distances((10,))
    trainer = train("dcgan", SMALL, tmp_path, 0, callbacks=[distances])
    distance, _, _ = measured_apart(trainer)
    assert distance == pytest.approx(distances.averaged[10]) and not distances.also


def test_other_metrics_of_the_averaged_one_stand_beside_an_unchanged_distance(tmp_path):
    distances = Distances((10,), also=("recall", "precision"))
    trainer = train("dcgan", SMALL, tmp_path, 0, callbacks=[distances])
    distance, precision, recall = measured_apart(trainer)
    assert precision != recall, "one could pass for the other"
    assert distances.also == {"recall": {10: recall}, "precision": {10: precision}}
    assert distances.averaged == pytest.approx({10: distance})


def measured_apart(trainer):
    """Distance, precision and recall of the averaged generator, by a measure of its own."""
    metrics = ["fid", "precision", "recall"]
    measure = Measure(load("scenes", image_size=16, size=40, seed=0), metrics, n=24)
    with trainer.averaged() as architecture, _distance.rng.isolated(_distance.rng.mix(0, 3)):
        found = measure(architecture.sample)
    return [found[measure.label(metric)] for metric in metrics]


def test_five_looks_in_the_last_fifth_and_their_mean():
    assert last_fifth(500) == [400, 425, 450, 475, 500]
    assert last_fifth(10) == [8, 8, 9, 9, 10]
    assert mean({1: 2.0, 2: 4.0}) == 3.0


def test_a_tenth_is_a_tenth():
    distances = Distances(())
    distances.averaged, distances.live = {20: 8.0, 200: 2.0}, {20: 9.0, 200: 3.0}
    measured = tenth_and_end(distances, 200)
    assert measured["distance at the end / at 10%"] == 0.25
    assert measured["live generator: distance at the end / at 10%"] == pytest.approx(1 / 3)
    assert _distance.HALVED.holds([measured]) and not _distance.HALVED.holds([{_distance.HALVED.value: 0.51}])


def test_gan_runs_through_and_is_judged(tmp_path, monkeypatch):
    small = {"image_size": 16, "hidden": 8, "maxout_units": 4, "maxout_pieces": 2}
    monkeypatch.setitem(GAN.presets, "fashion_mnist", Preset("scenes", 10, batch_size=4, model=small, size=40))
    monkeypatch.setattr(gan, "N", 50)
    asked = []

    def judge(data, out, *, image_size):
        asked.append((data, image_size))
        net = ClassifierFeatures(3, image_size, [str(i) for i in range(10)], data)
        return net.freeze(), 0.5

    monkeypatch.setattr(gan, "classifier", judge)
    measured = gan.RECIPE.measure(tmp_path, 0)
    gan.RECIPE.check_names(measured)
    assert asked == [("scenes", 16)] and measured["judge's accuracy on test images"] == 0.5
    assert 1 <= measured["classes among the samples"] <= 10


def test_a_class_is_present_from_a_tenth_of_its_share():
    votes = torch.zeros(2000, 10)
    labels = torch.tensor([0] * 1961 + [1] * 20 + [2] * 19)
    votes[torch.arange(2000), labels] = 1
    assert gan.present(votes) == 2, "20 of 2000 are a tenth of a tenth, 19 are less"
