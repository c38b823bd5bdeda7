"""Improved GAN: each remedy does what its section of the paper says, and all of them together train."""

from __future__ import annotations

import copy

import pytest
import torch

import fastgan
from fastgan.architectures.improved_gan import Discriminator, MLPGenerator, mlp_trunk
from fastgan.data.batch import Batch

from .walk import batches_of, update, walk

ALL = {"minibatch_kernels": 3, "historical_averaging": 0.1, "virtual_batch": 4, "label_smoothing": 0.1}


def gan(**options) -> fastgan.Architecture:
    torch.manual_seed(0)
    small = {"image_size": 16, "channels": 1, "z_dim": 5, "ngf": 2, "ndf": 2, "num_classes": 3}
    return fastgan.create("improved_gan", **{**small, **options})


def batch(n: int = 6, labelled: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(2)
    label = torch.where(torch.arange(n) < labelled, torch.arange(n) % 3, -1)
    return Batch(image=torch.rand(n, 1, 16, 16, generator=generator) * 2 - 1, label=label)


@pytest.mark.parametrize("network", ["conv", "mlp"])
@pytest.mark.parametrize("options", [{}, ALL, {**ALL, "generator_loss": "non_saturating"}], ids=["paper", "all", "ns"])
def test_trains(network, options):
    model = gan(network=network, **options)
    before = copy.deepcopy(model.state_dict())
    walk(model, batches_of(batch()), 2)
    after = model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert still == ({"generator.reference"} if options else set())
    assert model.sample(3).shape == (3, 1, 16, 16) and model.eval().predict(batch()).shape == (6, 3)


def test_a_virtual_batch_norm_generator_draws_each_image_alone():
    for options, alone in (({"virtual_batch": 4}, True), ({}, False)):
        model, z = gan(**options), torch.rand(5, 5)
        assert torch.allclose(model.generator(z)[:2], model.generator(z[:2]), atol=1e-5) is alone


def test_the_remedies_are_terms_of_the_losses():
    plain, historical = gan(), gan(historical_averaging=0.5)
    for model, expected in ((plain, set()), (historical, {"history"})):
        discriminator, generator = model.phases()
        for phase in (discriminator, generator):
            optimizer = phase.optimizer(phase.parameters)
            first, second, third = (update(phase, optimizer, batch(), step) for step in range(3))
            assert {"history"} & set(third) == expected
        if expected:  # the mean of one set of parameters is that set
            assert first["history"] == second["history"] == 0 < third["history"]


def test_unlabelled_weight_0_is_supervised_learning():
    terms = gan(unlabelled_weight=0.0).discriminator_loss(batch(), 0)
    assert terms["unsupervised"] == 0 and terms["supervised"] > 0


def test_minibatch_discrimination_sees_that_all_images_are_one():
    model = gan(minibatch_kernels=8).eval()
    with torch.no_grad():
        various = torch.rand(6, 1, 16, 16) * 2 - 1
        one = various[:1].expand(6, -1, -1, -1)
        nearness = [model.discriminator.minibatch(model.discriminator(x).features)[:, -8:] for x in (various, one)]
    assert (nearness[1] == 5).all() and (nearness[0] < 5).all()


def test_noise_from_the_unit_cube():
    z = gan().latent(200)
    assert z.shape == (200, 5) and 0 <= z.min() < 0.1 and 0.9 < z.max() <= 1


def test_networks_alone():
    trunk, features = mlp_trunk(4, 3)
    judgement = Discriminator(trunk, features, 5, 2, 0.5)(torch.randn(6, 3, 4, 4))
    assert [tuple(part.shape) for part in judgement] == [(6,), (6, 5), (6, 250)]
    assert torch.allclose(judgement.evidence, judgement.classes.exp().sum(1).log(), atol=1e-5)
    assert MLPGenerator(4, 3, 7)(torch.rand(2, 7)).shape == (2, 3, 4, 4)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="image_size takes a power of two"):
        gan(image_size=20)
    with pytest.raises(ValueError, match="virtual_batch takes 0, or at least 2 images, got 1"):
        gan(virtual_batch=1)
