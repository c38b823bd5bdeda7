"""The Gaussian on the line and the mixtures in the plane: moments, centres, and what the coverage metric says."""

import math

import pytest
import torch

from fastgan.data import load
from fastgan.data.gaussian import Gaussian, GaussianMixture
from fastgan.metrics import mixture_coverage


def test_the_line_has_its_mean_deviation_and_density():
    dataset = Gaussian(50_000, mean=2.0, std=0.5, seed=1)
    values = dataset.batch(range(50_000))["image"]
    assert values.shape == (50_000, 1, 1, 1) and values.dtype == torch.float32
    assert values.mean().item() == pytest.approx(2, abs=0.01) and values.std().item() == pytest.approx(0.5, rel=0.02)
    assert dataset.density(torch.tensor(2.0)).item() == pytest.approx(1 / (0.5 * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize(("name", "modes", "nearest", "std"), [
    ("gaussians_8", 8, 2 * math.sqrt(2) * math.sin(math.pi / 8), 0.02 / math.sqrt(2)),
    ("gaussians_25", 25, 1 / math.sqrt(2), 0.05 / math.sqrt(8)),
])  # fmt: skip
def test_mixtures_are_those_of_the_papers(name, modes, nearest, std):
    dataset = load(name, size=40_000)
    assert dataset.centres.shape == (modes, 2) and dataset.std == pytest.approx(std)
    between = torch.cdist(dataset.centres, dataset.centres) + 9 * torch.eye(modes)
    assert torch.allclose(between.min(1).values, torch.full((modes,), nearest), atol=1e-5)
    batch = dataset.batch(range(40_000))
    points, labels = batch["image"].flatten(1), batch["label"]
    assert batch["image"].shape == (40_000, 2, 1, 1) and batch["image"].dtype == torch.float32
    assert torch.allclose(points.var(0), torch.ones(2), atol=0.02)  # what the scale is for
    found = mixture_coverage(points, dataset.centres, dataset.std)
    assert found.modes == found.total == modes == len(dataset.classes) and found.kl < 1e-5
    assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.003)  # within 3 deviations in the plane
    deviation = points - dataset.centres[labels]
    assert deviation.std(0).numpy() == pytest.approx([std, std], rel=0.02)
    assert torch.bincount(labels).tolist() == [40_000 // modes] * modes


def test_draws_are_repeatable_and_splits_and_seeds_share_no_point():
    draws = {
        (seed, split): load("gaussians_8", size=50, seed=seed, split=split).batch(range(50))["image"]
        for seed in (0, 1) for split in ("train", "test")
    }  # fmt: skip
    assert torch.equal(draws[0, "train"], load("gaussians_8", size=50).batch(range(50))["image"])
    first = [draw[0, 0].item() for draw in draws.values()]
    assert len(set(first)) == 4


def test_bad_arguments():
    with pytest.raises(ValueError, match="std a positive number, got .* and 0"):
        GaussianMixture("x", torch.zeros(2, 2), 0.0)
    with pytest.raises(ValueError, match="channels takes 2 or None for gaussians_25, got 3"):
        load("gaussians_25", channels=3)
    with pytest.raises(ValueError, match="split takes 'train' or 'test', got 'held_out'"):
        load("gaussians_25", split="held_out")
