"""InfoGAN: its latent, its posterior, who trains what, and the paper's networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastgan.architectures.infogan import Discriminator, Generator, InfoGAN, Recognition, halvings
from fastgan.data.batch import Batch
from fastgan.registry import create

from .walk import batches_of, set_trainable, update, walk

SMALL = {"image_size": 16, "channels": 1, "z_dim": 3, "ngf": 4, "ndf": 4, "hidden": 16, "q_hidden": 8}


def small(**options) -> InfoGAN:
    torch.manual_seed(0)
    return create("infogan", **{**SMALL, **options})


def images(n: int = 6) -> torch.Tensor:
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_latent_is_noise_then_one_hot_then_uniform():
    gan = small(categorical=2, categories=5, continuous=3)
    torch.manual_seed(4)
    latent = gan.latent(2000)
    assert latent.shape == (2000, 3 + 2 * 5 + 3) and gan.latent_dim == 16
    noise, categorical, continuous = gan.split(latent)
    assert (noise.shape, categorical.shape, continuous.shape) == ((2000, 3), (2000, 2, 5), (2000, 3))
    assert torch.equal(latent, torch.cat([noise, categorical.flatten(1), continuous], 1))
    assert set(categorical.unique().tolist()) == {0.0, 1.0} and torch.equal(categorical.sum(2), torch.ones(2000, 2))
    assert (categorical.mean(0) - 0.2).abs().max() < 0.05  # every category as often as the others: 5.6 deviations
    for uniform in (noise, continuous):
        assert uniform.abs().max() <= 1
        assert uniform.mean(0).abs().max() < 0.07 and (uniform.var(0) - 1 / 3).abs().max() < 0.04
    assert (torch.corrcoef(latent.T)[:3, 3:]).abs().max() < 0.1  # noise and codes have nothing to do with one another


def test_half_precision_draws_all_categories_alike():
    gan = small(categories=100).to(torch.bfloat16)
    torch.manual_seed(0)
    latent = gan.latent(20_000)
    assert latent.dtype == torch.bfloat16
    counts = gan.split(latent)[1].float().sum((0, 1))
    assert counts.min() > 130 and counts.max() < 270  # 200 each, deviation 14


def test_a_latent_of_another_shape_is_refused_with_the_layout():
    gan = small()
    message = r"takes shape \(N, 15\), got \(2, 3\): 3 columns of noise, 1 x 10 one-hot, 2 continuous"
    for call in (lambda z: gan.generate(Batch(latent=z)), lambda z: gan.traverse(z, 0)):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(2, 3))


def test_a_given_latent_is_what_the_image_and_the_bound_are_made_of():
    gan = small().eval()
    latent = gan.latent(6)
    fake = gan.generate(Batch(latent=latent))
    assert torch.equal(fake, gan.generator(latent))
    terms = gan.generator_loss(Batch(latent=latent), 0)
    bounds = gan.information(gan.codes(fake), latent)
    for kind, weight in (("categorical", 1.0), ("continuous", 0.1)):
        torch.testing.assert_close(terms[f"{kind}_nats"], bounds[kind])
        torch.testing.assert_close(terms[f"{kind}_codes"], -weight * bounds[kind])
        assert terms[f"{kind}_codes"].requires_grad and not terms[f"{kind}_nats"].requires_grad


def test_the_bound_of_a_posterior_that_knows_the_codes_and_of_one_that_does_not():
    gan = small(categorical=2)
    latent = gan.latent(50)
    _, categorical, continuous = gan.split(latent)
    posterior = gan.codes(images(50))
    knows = posterior._replace(logits=100 * categorical, mean=continuous, log_std=torch.full_like(continuous, -2.0))
    bounds = gan.information(knows, latent)
    assert bounds["categorical"].item() == pytest.approx(2 * math.log(10), abs=1e-5)
    assert bounds["continuous"].item() == pytest.approx(2 * (math.log(2) + 2 - 0.5 * math.log(2 * math.pi)), abs=1e-5)
    guesses = posterior._replace(logits=torch.zeros(50, 2, 10))
    assert gan.information(guesses, latent)["categorical"].item() == pytest.approx(0.0, abs=1e-6)


def test_q_learns_with_the_discriminator_and_the_generator_alone_for_itself():
    gan = small()
    discriminator, generator = gan.phases()
    assert {id(p) for p in discriminator.parameters} == {
        id(p) for network in (gan.discriminator, gan.recognition) for p in network.parameters()
    }
    assert {id(p) for p in generator.parameters} == {id(p) for p in gan.generator.parameters()}
    for phase, lr in ((discriminator, 2e-4), (generator, 1e-3)):
        settings = phase.optimizer(phase.parameters).defaults
        assert (settings["lr"], settings["betas"]) == (lr, (0.5, 0.999))


def test_both_rates_fall_where_asked():
    assert [phase.schedule for phase in small().phases()] == [None, None]
    phases = small(lr_decay_steps=100, discriminator_lr=4e-3, lr=1e-3).phases()
    rates = [[phase.schedule(step)["lr"] for step in (0, 25, 100, 150)] for phase in phases]
    assert rates == [[4e-3, 3e-3, 0.0, 0.0], [1e-3, 7.5e-4, 0.0, 0.0]]


def test_the_bound_reaches_the_shared_trunk_and_the_generator():
    """With the bound alone: both updates drive it, over their own networks."""
    gan = small()
    for phase, network in zip(gan.phases(), (gan.discriminator.trunk, gan.generator), strict=True):
        set_trainable(gan, phase)
        terms = phase.loss(Batch(image=images(), latent=gan.latent(6)), 0)
        (terms["categorical_codes"] + terms["continuous_codes"]).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        gan.zero_grad()
    assert gan.discriminator.head.weight.grad is None


def test_fakes_are_constants_in_the_discriminator_s_update():
    gan = small()
    terms = gan.discriminator_loss(Batch(image=images()), 0)
    sum(term for term in terms.values() if term.requires_grad).backward()
    assert all(p.grad is None for p in gan.generator.parameters())


def test_training_finds_a_code():
    """Discriminator and recognition learn a category that the generator shows plainly."""
    gan = small(categories=2, continuous=0, discriminator_lr=5e-3)

    class Plain(nn.Module):
        def forward(self, latent: torch.Tensor) -> torch.Tensor:
            return (2 * latent[:, 3] - 1)[:, None, None, None] * torch.ones(1, 1, 16, 16)

    phase = gan.phases()[0]
    gan.generator = Plain()
    optimizer = phase.optimizer(phase.parameters)
    nats = [update(phase, optimizer, Batch(image=images(16)), 0)["categorical_nats"].item() for _ in range(80)]
    assert nats[0] < 0.1 and sum(nats[-10:]) / 10 > 0.8 * math.log(2)


@pytest.mark.parametrize(("categorical", "continuous"), [(0, 2), (3, 0)])
def test_codes_of_one_kind(categorical, continuous):
    gan = small(categorical=categorical, continuous=continuous)
    walk(gan, batches_of(Batch(image=images())), steps=1)
    posterior = gan.codes(images())
    assert posterior.logits.shape == (6, categorical, 10) and posterior.mean.shape == (6, continuous)
    kinds = {name for name in gan.generator_loss(Batch(image=images()), 0) if name.endswith("nats")}
    assert kinds == {"categorical_nats" if categorical else "continuous_nats"}


def test_no_code_is_refused():
    with pytest.raises(ValueError, match="takes at least one code of either"):
        small(categorical=0, continuous=0)


def test_codes_is_q_alone():
    gan = small().eval()
    posterior = gan.codes(images())
    assert posterior.logits.shape == (6, 1, 10)
    assert posterior.mean.shape == posterior.log_std.shape == (6, 2)
    _, features = gan.discriminator(images())
    for a, b in zip(posterior, gan.recognition(features), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(gan.codes(images()[:1]).logits, posterior.logits[:1])  # an image alone, in eval mode
    with pytest.raises(ValueError, match=r"batch.image takes shape \(N, 1, 16, 16\)"):
        gan.codes(torch.zeros(2, 3, 16, 16))


def test_traverse_varies_one_code_and_nothing_else():
    gan = small(categorical=2, categories=4)
    latent = gan.latent(3)
    kept = latent.clone()
    noise, categorical, continuous = gan.split(latent)
    for code in range(4):
        varied = gan.traverse(latent, code)
        assert varied.shape == (3, 4 if code < 2 else 10, gan.latent_dim)
        for i in range(varied.shape[1]):
            n, k, c = gan.split(varied[:, i])
            expected_k, expected_c = categorical.clone(), continuous.clone()
            if code < 2:
                expected_k[:, code] = torch.eye(4)[i]
            else:
                expected_c[:, code - 2] = -1 + 2 * i / 9
            assert torch.equal(n, noise) and torch.equal(k, expected_k)
            torch.testing.assert_close(c, expected_c)
    assert torch.equal(latent, kept)
    assert gan.traverse(latent, 3, [-2.0, 0.5])[:, :, -1].tolist() == [[-2.0, 0.5]] * 3
    assert gan.traverse(latent, 0, [2])[:, 0, 3:7].tolist() == [[0, 0, 1, 0]] * 3


def test_traverse_refuses_what_is_no_code_and_no_category():
    gan = small()
    with pytest.raises(ValueError, match="code takes 0 to 2, got 3"):
        gan.traverse(gan.latent(1), 3)
    for wrong in (10, -1, 0.5):
        with pytest.raises(ValueError, match="takes whole numbers from 0 to 9"):
            gan.traverse(gan.latent(1), 0, [wrong])


def test_the_paper_s_networks_at_28_px():
    """Parameters counted by hand from appendix C.1; no bias where batch norm follows."""
    count = {
        type(network): sum(p.numel() for p in network.parameters())
        for network in create("infogan", channels=1).children()
    }
    assert count == {
        Generator: (74 + 2) * 1024 + (1024 + 2) * 6272 + 128 * 64 * 16 + 2 * 64 + 64 * 16 + 1,
        Discriminator: (64 * 16 + 64) + (64 * 128 * 16 + 2 * 128) + (6272 + 2) * 1024 + 1025,
        Recognition: (1024 + 2) * 128 + (128 + 1) * (10 + 2 + 2),
    }


@pytest.mark.parametrize(("image_size", "layers"), [(16, 2), (20, 2), (28, 2), (32, 3), (48, 3), (64, 4), (256, 6)])
def test_sizes_lead_to_a_map_of_4_to_7_pixels(image_size, layers):
    assert halvings(image_size) == layers


@pytest.mark.parametrize("image_size", [4, 8, 14, 18, 30, 36, 44, 100, 512])
def test_other_sizes_are_refused(image_size):
    with pytest.raises(ValueError, match=rf"image_size takes 4, 5, 6 or 7 times a power of two .* got {image_size}"):
        small(image_size=image_size)


@pytest.mark.parametrize("image_size", [20, 48])
def test_generator_and_discriminator_meet_at_sizes_that_are_no_power_of_two(image_size):
    gan = small(image_size=image_size)
    fake = gan.sample(2)
    assert fake.shape == (2, 1, image_size, image_size)
    assert gan.discriminator(fake)[0].shape == (2,)
