"""The recipes of WGAN and WGAN-GP, shortened to a few steps on few scenes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fastgan.architectures.base import Preset
from fastgan.architectures.wgan import WGAN
from fastgan.architectures.wgan_gp import WGANGP
from fastgan.recipes import _distance, wgan_gp_cifar10, wgan_mlp, wgan_progress
from fastgan.recipes.wgan_progress import spearman

TINY = {"image_size": 16, "ngf": 4, "ndf": 4, "hidden": 8}
SMALL = Preset("scenes", 20, 4, {**TINY, "n_critic": 1, "n_critic_warmup": 1}, size=40)
pytestmark = pytest.mark.filterwarnings("ignore:fid of")


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(_distance, "N", 24)


def test_progress_runs_through(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figure: pip install 'fastgan[plots]'")
    perceptron = dataclasses.replace(SMALL, model={**SMALL.model, "generator": "mlp"})
    monkeypatch.setattr(wgan_progress, "PRESETS", {"dcgan": SMALL, "mlp": perceptron})
    monkeypatch.setattr(wgan_progress, "LOOKS", 4)
    measured = wgan_progress.RECIPE.measure(tmp_path, 0)
    wgan_progress.RECIPE.check_names(measured)
    for label in ("DCGAN generator", "perceptron generator"):
        assert -1 <= measured[f"{label}: Spearman"] <= 1
        assert measured[f"{label}: first distance"] != measured[f"{label}: last distance"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_spearman_looks_at_ranks_alone():
    assert spearman([1.0, 2.0, 3.0, 4.0], [0.1, 10.0, 11.0, 1e6]) == pytest.approx(1)
    assert spearman([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]) == pytest.approx(-1)
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15)
    assert spearman([5.0, 6.0, 7.0, 8.0], [0.2, 0.1, 0.4, 0.3]) == pytest.approx(0.6)
    # ranks 3 1 2 4 and 1 2 4 3, neither its own inverse: 1 - 6 * 10 / (4 * 15)
    assert spearman([0.3, 0.1, 0.2, 0.4], [5.0, 6.0, 8.0, 7.0]) == pytest.approx(0)


def test_mlp_runs_through(tmp_path, monkeypatch):
    small = {**SMALL.model, "generator": "mlp"}
    monkeypatch.setattr(wgan_mlp, "PRESET", dataclasses.replace(SMALL, model=small))
    measured = wgan_mlp.RECIPE.measure(tmp_path, 0)
    wgan_mlp.RECIPE.check_names(measured)
    assert measured["standard GAN: distance at the end"] != measured["distance at the end"] > 0
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_the_standard_gan_has_the_same_networks_and_as_many_updates():
    torch.manual_seed(0)
    wgan = WGAN(WGAN.Config(**TINY, generator="mlp"))
    game = wgan_mlp.networks(wgan.config)

    def shapes(network):
        return [tuple(p.shape) for p in network.parameters()]

    assert shapes(game.generator) == shapes(wgan.generator) and shapes(game.discriminator) == shapes(wgan.critic)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in game.generator.modules())
    count = {}

    class Run:
        architecture, steps, seed = wgan, 10, 0

        class batches:
            dataset, batch_size = torch.zeros(8, 3, 16, 16), 4

    def fake(architecture, data, *, steps, batch_size, **options):
        count.update(steps=steps, batch_size=batch_size)
        return type("Fake", (), {"fit": lambda self: None})()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wgan_mlp, "Trainer", fake)
        _, distances = wgan_mlp.standard_gan(Run)
    assert count == {"steps": 30, "batch_size": 4}, "10 steps of 5 critic updates and one of the generator: 60 in all"
    assert distances.at == {3, 30}


def test_wgan_gp_runs_through(tmp_path, monkeypatch):
    monkeypatch.setitem(WGAN.presets, "cifar10", SMALL)
    monkeypatch.setitem(WGANGP.presets, "cifar10", Preset("scenes", 20, 4, {**TINY, "n_critic": 1}, size=40))
    measured = wgan_gp_cifar10.RECIPE.measure(tmp_path, 0)
    wgan_gp_cifar10.RECIPE.check_names(measured)
    assert measured["wgan_gp: distance"] != measured["wgan: distance"]
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_both_have_the_same_budget():
    clipped, penalised = WGAN.presets["cifar10"], WGANGP.presets["cifar10"]
    assert (clipped.data, clipped.steps, clipped.batch_size) == (penalised.data, penalised.steps, penalised.batch_size)
    ours, theirs = WGAN.Config(**clipped.model), WGANGP.Config(**penalised.model)
    for name in ("ngf", "ndf", "image_size", "n_critic", "generator", "critic", "generator_norm"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.n_critic_warmup == ours.n_critic, "no critic updates beyond WGAN-GP's"
