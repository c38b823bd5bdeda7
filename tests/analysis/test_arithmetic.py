"""Latents by number, and arithmetic with them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fastgan import registry
from fastgan.analysis import latent
from fastgan.analysis.arithmetic import combine, jitter
from fastgan.architectures.base import Architecture, option
from fastgan.data.batch import Batch


class Linear(Architecture):
    """Images that are a linear map of the latent, plus the class where it is told one."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(2, "height and width")
        z_dim: int = option(5, "dimensions of the noise")
        num_classes: int = option(3, "classes")

    def __init__(self, config):
        super().__init__(config)
        self.generator = nn.Linear(5, 12, bias=True)

    def generate(self, batch: Batch) -> torch.Tensor:
        images = self.generator(self.noise(batch)).unflatten(1, (3, 2, 2))
        return images if batch.label is None else images + batch.label.view(-1, 1, 1, 1)


class LabelledLinear(Linear):
    conditions = ("label",)


def test_a_linear_generator_makes_exactly_the_arithmetic_of_the_images():
    model = Linear(Linear.Config()).double()
    z = torch.randn(10, 5, dtype=torch.float64)
    a, b, c = [3, 1, 7], [0, 2, 4], [5, 6, 9]
    images = latent.generate(model, z)
    mean_a, mean_b, mean_c, result = latent.generate(model, combine(z, a, b, c))
    torch.testing.assert_close(mean_a, images[a].mean(0))
    torch.testing.assert_close(result, mean_a - mean_b + mean_c)
    torch.testing.assert_close(result, images[a].mean(0) - images[b].mean(0) + images[c].mean(0))


def test_neighbours_lie_within_the_noise_and_fill_it():
    torch.manual_seed(0)
    z = torch.randn(100)
    offsets = jitter(z, 1000) - z
    assert offsets.shape == (1000, 100)
    assert 0.249 < offsets.max() <= 0.2501 and -0.2501 <= offsets.min() < -0.249
    assert abs(offsets.std() - 0.5 / 12**0.5) < 1e-3
    assert torch.equal(jitter(z, 2, noise=0.0), z.expand(2, 100))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [(([], [0], [0]), "a takes at least one"), (([0], [0, 4], [0]), "b names sample 4; .* 0 to 3")],
)
def test_numbers_that_are_no_samples_are_refused(numbers, words):
    with pytest.raises(ValueError, match=words):
        combine(torch.zeros(4, 5), *numbers)


def test_a_sample_keeps_its_number_however_many_are_drawn():
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=2, latent="uniform")
    before = torch.get_rng_state()
    many = latent.draw(model, 150, seed=3)
    assert torch.equal(latent.draw(model, 7, seed=3), many[:7])
    assert not torch.equal(latent.draw(model, 7, seed=4), many[:7])
    assert len(many.unique(dim=0)) == 150 and many.abs().max() <= 1
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_are_held_fixed_or_go_through_the_classes():
    model = LabelledLinear(LabelledLinear.Config())
    assert latent.labels_for(model, 2, 4).tolist() == [2] * 4
    assert latent.labels_for(model, None, 4).tolist() == [0, 1, 2, 0]
    z = torch.zeros(4, 5)
    same = latent.generate(model, z, latent.labels_for(model, None, 4), batch_size=2)
    torch.testing.assert_close(same[1] - same[0], torch.ones(3, 2, 2))
    torch.testing.assert_close(same[2] - same[0], torch.full((3, 2, 2), 2.0))
    torch.testing.assert_close(same[3], same[0])
    with pytest.raises(ValueError, match="label is 3; .* the classes 0 to 2"):
        latent.labels_for(model, 3, 4)
    with pytest.raises(ValueError, match="from noise alone: leave the label out"):
        latent.labels_for(Linear(Linear.Config()), 0, 4)
    model.conditions = ("source",)
    with pytest.raises(ValueError, match="makes images of source"):
        latent.labels_for(model, None, 4)


def test_generating_leaves_the_mode_as_it_was_and_points_are_no_images():
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=2).train()
    z = latent.draw(model, 3, 0)
    images = latent.generate(model, z, batch_size=2)
    assert model.training and not images.requires_grad
    torch.testing.assert_close(images, model.eval().generate(Batch(latent=z)).detach())
    points = registry.create("gan", image_size=1, channels=2, z_dim=2, hidden=4, maxout_units=2)
    with pytest.raises(ValueError, match="makes data points"):
        latent.generate(points, torch.zeros(1, 2))
