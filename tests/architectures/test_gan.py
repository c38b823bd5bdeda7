"""GAN of 2014: its losses, its schedule, its one-dimensional demonstration."""

from __future__ import annotations

import pytest
import torch

from fastgan.architectures.gan import Maxout
from fastgan.data.batch import Batch
from fastgan.registry import create

from .walk import walk

ONE_DIMENSIONAL = {  # as in the docstring of fastgan.architectures.gan
    "image_size": 1,
    "channels": 1,
    "z_dim": 1,
    "hidden": 32,
    "maxout_units": 8,
    "maxout_pieces": 3,
    "input_dropout": 0,
    "dropout": 0,
    "init_generator": 0.5,
    "init_discriminator": 0.5,
    "lr_decay": 1.001,
}


def test_maxout_takes_the_largest_piece():
    layer = Maxout(1, units=2, pieces=2)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0], [-1.0], [2.0], [0.0]]))
        layer.linear.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    # unit 0 is |x|, unit 1 is max(2x, 1)
    assert torch.equal(layer(torch.tensor([[3.0], [-2.0]])), torch.tensor([[3.0, 6.0], [2.0, 1.0]]))


def test_generator_loss_is_the_one_configured():
    batch = Batch(image=torch.zeros(6, 1, 1, 1), latent=torch.randn(6, 2))
    values = {}
    for loss in ("minimax", "non_saturating"):
        torch.manual_seed(0)
        gan = create("gan", image_size=1, channels=1, z_dim=2, input_dropout=0, dropout=0, loss=loss)
        values[loss] = gan.generator_loss(batch, 0)["adversarial"]
        p = gan.discriminator(gan.generate(batch)).sigmoid()
        expected = (1 - p).log().mean() if loss == "minimax" else -p.log().mean()
        torch.testing.assert_close(values[loss], expected)
    assert values["minimax"] < 0 < values["non_saturating"]


def test_schedule_of_the_authors():
    gan = create("gan")
    assert gan.schedule(0) == {"lr": 0.1, "momentum": 0.5}
    assert gan.schedule(125_000)["momentum"] == pytest.approx(0.7)
    assert gan.schedule(10**9) == {"lr": 1e-6, "momentum": pytest.approx(0.7)}
    assert gan.schedule(1)["lr"] == pytest.approx(0.1 / 1.000004)


def test_k_discriminator_updates():
    gan = create("gan", image_size=1, channels=1, k=3)
    updates = walk(gan, iter([Batch(image=torch.randn(4, 1, 1, 1))] * 6), steps=2)
    assert updates == {("train", "discriminator"): 6, ("train", "generator"): 2}


def test_one_dimensional_demonstration():
    """Figure 1 of the paper in small: samples come to match the data, D can no longer tell, and D(x) is near 1/2."""
    torch.manual_seed(3)
    gan = create("gan", **ONE_DIMENSIONAL)
    x = torch.linspace(-1.96, 1.96, 101).view(-1, 1, 1, 1)  # 95% of the data's mass

    def doubt() -> float:
        return (gan.discriminator(x).sigmoid() - 0.5).abs().max().item()

    before = doubt()
    walk(gan, (Batch(image=torch.randn(200, 1, 1, 1)) for _ in iter(int, 1)), steps=500)
    samples = gan.sample(2000)
    assert before > 0.1 and doubt() < 0.05
    assert abs(samples.mean()) < 0.3 and 0.7 < samples.std() < 1.3
