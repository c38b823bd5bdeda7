"""The recipe of LAPGAN, shortened; and its budget against operations counted by hand."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import fastgan
from fastgan.architectures.base import Preset
from fastgan.architectures.lapgan import LAPGAN
from fastgan.recipes import _distance, lapgan

TINY = {"image_size": 16, "hidden_generator": 4, "hidden_discriminator": 4, "ngf": 2, "ndf": 2}


def test_it_runs_through(tmp_path, monkeypatch):
    monkeypatch.setattr(_distance, "N", 40)
    monkeypatch.setattr(lapgan, "COLUMNS", 3)
    monkeypatch.setitem(LAPGAN.presets, "cifar10", Preset("scenes", 10, 4, TINY, size=60))
    measured = lapgan.measure(tmp_path, seed=0)
    lapgan.RECIPE.check_names(measured)
    assert measured["one-shot GAN: tera-operations"] >= measured["LAPGAN: tera-operations"] > 0
    assert all(0 <= measured[f"{name}: precision"] <= 1 for name in ("LAPGAN", "one-shot GAN"))
    assert measured["LAPGAN: distance"] > 0
    # rows: 8 and 16 px, one-shot, real
    assert Image.open(tmp_path / "picture.png").size == (3 * 18 + 2, 4 * 18 + 2)


def test_operations_of_a_fully_connected_pair():
    gan = fastgan.create("lapgan", image_size=8, channels=1, z_dim=3, hidden_generator=5, hidden_discriminator=7)
    g, d = 3 * 5 + 5 * 5 + 5 * 64, 64 * 7 + 7 * 7 + 7  # weights: a multiplication and an addition each, per image
    # D: G once, D twice forward; back, weights twice and inputs but the pictures'. G: both forward and back, D's
    # weights excepted, and G's but for the noise
    discriminator = g + 2 * (d + d + (d - 64 * 7))
    generator = g + d + d + g + (g - 3 * 5)
    assert lapgan.operations(gan, batch_size=6, steps=10) == 2 * 6 * 10 * (discriminator + generator)


def test_operations_count_a_level_only_where_it_is_trained():
    cost = {
        every: lapgan.operations(fastgan.create("lapgan", **TINY, finer_every=every), batch_size=2, steps=4)
        for every in (1, 2, 4)
    }
    fine = (cost[1] - cost[2]) / 2  # of one update of the finer level
    assert fine > 0 and cost[2] - cost[4] == pytest.approx(fine)


def test_steps_within_a_budget():
    gan = fastgan.create("lapgan", image_size=8, hidden_generator=4, hidden_discriminator=4)
    step = lapgan.operations(gan, 2, 1)
    assert [lapgan.steps_within(gan, 2, budget) for budget in (step, 1.01 * step, 7 * step)] == [1, 2, 7]


def test_the_picture_s_rows_are_one_chain():
    torch.manual_seed(0)
    gan = fastgan.create("lapgan", **TINY).eval()
    torch.nn.init.zeros_(gan.generator.finer[0].layers[-1].weight)
    torch.nn.init.zeros_(gan.generator.finer[0].layers[-1].bias)  # no residual: 16 px is 8 px enlarged
    coarse, fine = lapgan.draw(gan)
    assert coarse.shape == fine.shape == (16, 3, 16, 16)
    assert torch.equal(coarse[..., ::2, ::2], coarse[..., 1::2, 1::2])
    torch.testing.assert_close(fine, fastgan.nn.pyramid.upsample(coarse[..., ::2, ::2]))
