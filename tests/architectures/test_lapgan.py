"""LAPGAN: each level learns from real pyramids alone, and the chain draws with the levels one after the other."""

from __future__ import annotations

import math

import pytest
import torch

import fastgan
from fastgan.architectures import lapgan
from fastgan.architectures.lapgan import CoarseDiscriminator, CoarseGenerator, FineDiscriminator, FineGenerator
from fastgan.data.batch import Batch
from fastgan.nn.pyramid import build_pyramid, downsample, upsample

from .walk import batches_of, set_trainable, walk

SMALL = {"image_size": 32, "hidden_generator": 8, "hidden_discriminator": 8, "ngf": 3, "ndf": 3}


def build(**options) -> lapgan.LAPGAN:
    torch.manual_seed(0)
    return fastgan.create("lapgan", **{**SMALL, **options})


def batch(n: int = 4, size: int = 32, **fields) -> Batch:
    return Batch(image=torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1, **fields)


def phase_of(gan: lapgan.LAPGAN, name: str):
    return next(phase for phase in gan.phases() if phase.name == name)


# -- the networks alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 5])
def test_networks_work_alone(classes):
    label = torch.eye(classes)[torch.tensor([0, 3])] if classes else None
    image, z = torch.rand(2, 3, 16, 16), torch.rand(2, 7)
    assert CoarseGenerator(8, 3, 7, 9, classes)(z, label).shape == (2, 3, 8, 8)
    assert CoarseDiscriminator(16, 3, 9, 0.5, classes)(image, label).shape == (2,)
    assert FineGenerator(16, 3, 4, classes)(image, torch.rand(2, 1, 16, 16), label).shape == (2, 3, 16, 16)
    assert FineDiscriminator(16, 3, 4, 0.5, classes)(image, label).shape == (2,)


def test_settings_of_the_authors():
    gan = fastgan.create("lapgan")
    sizes = {name: tuple(p.shape) for name, p in gan.named_parameters() if name.endswith("weight")}
    assert [sizes[f"generator.coarse.layers.{i}.weight"] for i in (0, 2, 4)] == [(1200, 100), (1200, 1200), (192, 1200)]
    assert [sizes[f"discriminator_8.layers.{i}.weight"] for i in (0, 3, 6)] == [(600, 192), (600, 600), (1, 600)]
    finest = [sizes[f"generator.finer.1.layers.{i}.weight"] for i in (0, 2, 4)]
    assert finest == [(64, 4, 7, 7), (64, 64, 7, 7), (3, 64, 5, 5)]
    judge = [sizes[f"discriminator_32.layers.{i}.weight"] for i in (0, 2, 6)]
    assert judge == [(64, 3, 5, 5), (64, 64, 5, 5), (1, 64 * 12 * 12)]
    assert gan.defaults["batch_size"] == 128
    assert gan.generator.coarse.layers[2].weight.std().item() == pytest.approx(0.05, rel=0.01)
    assert gan.discriminator_8.layers[3].weight.std().item() == pytest.approx(0.005, rel=0.01)


def test_contrast_is_of_the_coarsest_discriminator_s_images_alone():
    plain, strong = build(conditional=True), build(conditional=True, contrast=3.0)
    image, label = batch(size=8).image, torch.eye(10)[:4]
    for gan in (plain.eval(), strong.eval()):
        torch.nn.init.normal_(gan.discriminator_8.layers[0].bias)
        torch.nn.init.normal_(gan.discriminator_8.layers[3].weight)
        torch.nn.init.normal_(gan.discriminator_8.layers[6].weight)
    strong.load_state_dict(plain.state_dict())
    given = strong.discriminator_8(image, label)
    torch.testing.assert_close(given, plain.discriminator_8(3 * image, label))
    assert not torch.allclose(given, plain.discriminator_8(3 * image, 3 * label))
    larger = batch(size=16).image
    torch.testing.assert_close(strong.discriminator_16(larger, label), plain.discriminator_16(larger, label))


# -- the pyramid in training ---------------------------------------------------------------------------------------


def test_each_level_is_shown_its_part_of_the_real_pyramid():
    gan, real = build(), batch()
    coarsest, residuals = build_pyramid(real.image, 2)
    image, low = gan.pictures(real, 0)
    assert low is None
    torch.testing.assert_close(image, coarsest)
    for level in (1, 2):
        image, low = gan.pictures(real, level)
        torch.testing.assert_close(image - low, residuals[level - 1])
        torch.testing.assert_close(low, upsample(downsample(image)))
    assert gan.pictures(real, 2)[0] is real.image  # D sees the picture itself, not a sum that equals it to rounding


def test_discriminators_judge_the_low_pass_image_plus_the_residual():
    gan = build(dropout=0.0)
    latent = gan.latent(4)
    real = batch(latent=latent)
    seen = []
    gan.discriminator_16.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    losses = phase_of(gan, "discriminator_16").loss(real, 0)
    low = upsample(downsample(downsample(real.image)))
    noise = latent[:, 100 : 100 + 256].view(4, 1, 16, 16)
    assert torch.equal(seen[0], downsample(real.image))
    torch.testing.assert_close(seen[1], (low + gan.generator.finer[0](low, noise)).detach())
    # a binary cross-entropy over the real and the generated half of one batch
    logits = gan.discriminator_16(torch.cat(seen[:2]))
    labels = torch.tensor([1.0] * 4 + [0.0] * 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(losses["adversarial"], expected)
    assert not losses["p_real"].requires_grad and 0 < losses["p_fake"] < 1


def test_a_generator_is_trained_by_its_own_level_s_discriminator():
    gan, real = build(dropout=0.0), batch(latent=torch.zeros(4, 100 + 256 + 1024))
    phase = phase_of(gan, "generator_32")
    set_trainable(gan, phase)
    before = phase.loss(real, 0)["adversarial"]
    for name in ("discriminator_8", "discriminator_16"):
        torch.nn.init.constant_(gan.get_submodule(name).layers[-1].bias, 50.0)
    torch.testing.assert_close(phase.loss(real, 0)["adversarial"], before)
    torch.nn.init.constant_(gan.discriminator_32.layers[-1].bias, 50.0)
    assert phase.loss(real, 0)["adversarial"] < 1e-6 < before


def test_finer_levels_train_as_often_as_asked():
    gan = build(finer_every=2)
    updates = walk(gan, batches_of(batch()), steps=5)
    per_level = {8: 5, 16: 3, 32: 2}  # of the steps 0..4: all; 0, 2, 4; 0, 4
    expected = {
        ("train", f"{who}_{size}"): n for size, n in per_level.items() for who in ("discriminator", "generator")
    }
    assert updates == expected


def test_the_schedule_goes_by_a_level_s_own_epochs():
    gan = build(finer_every=2, epoch_steps=10, momentum_rise=0.05, lr_decay=2.0)
    coarse, fine = phase_of(gan, "discriminator_8").schedule, phase_of(gan, "generator_16").schedule
    assert coarse(9) == {"lr": 0.02, "momentum": 0.5}
    assert coarse(10) == {"lr": 0.01, "momentum": pytest.approx(0.55)} == fine(20)
    assert fine(19) == {"lr": 0.02, "momentum": 0.5}
    assert coarse(10_000)["momentum"] == 0.7
    assert build(momentum=0.9).schedule(0, 0)["momentum"] == 0.9  # what was asked for never falls to final_momentum


# -- drawing -------------------------------------------------------------------------------------------------------


def test_the_chain_draws_each_level_from_the_one_below_it():
    gan = build().eval()
    torch.nn.init.constant_(gan.generator.finer[0].layers[-1].bias, 1.0)  # so that the clamp has something to do
    z = gan.latent(3)
    with torch.no_grad():
        eight, sixteen, full = gan.generator.chain(z)
        low = upsample(eight)
        expected = low + gan.generator.finer[0](low, z[:, 100:356].view(3, 1, 16, 16))
        assert expected.max() > 1
        torch.testing.assert_close(sixteen, expected.clamp(-1, 1))
        low = upsample(sixteen)
        expected = low + gan.generator.finer[1](low, z[:, 356:].view(3, 1, 32, 32))
        torch.testing.assert_close(full, expected.clamp(-1, 1))
        assert torch.equal(gan.generate(Batch(latent=z)), full)


def test_noise_is_uniform_and_one_vector_for_all_levels():
    gan = build()
    z = gan.latent(64)
    assert z.shape == (64, 100 + 16**2 + 32**2)
    assert -1 <= z.min() < -0.999 and 0.999 < z.max() <= 1
    assert abs(z.std().item() - 1 / math.sqrt(3)) < 0.005
    with pytest.raises(ValueError, match=r"takes shape \(N, 1380\), got \(2, 100\): 100 \+ 256 \+ 1024 by level"):
        gan.generate(Batch(latent=torch.zeros(2, 100)))


def test_one_level_is_one_gan():
    gan = build(coarse_size=32)
    assert [phase.name for phase in gan.phases()] == ["discriminator_32", "generator_32"]
    assert gan.latent(2).shape == (2, 100)
    assert gan.sample(2).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("size", [8, 24, 48, 40, 4])
def test_sizes_that_doubling_does_not_reach_are_refused(size):
    if size == 8:
        assert build(image_size=8).sizes == (8,)
        return
    with pytest.raises(ValueError, match=f"image_size takes coarse_size .* doubled any number of times, got {size}"):
        build(image_size=size)


# -- classes -------------------------------------------------------------------------------------------------------


def test_a_conditional_model_draws_and_judges_by_the_label():
    gan = build(conditional=True, num_classes=4, dropout=0.0).eval()
    assert gan.needs == ("image", "label") and gan.conditions == ("label",)
    z = gan.latent(1).expand(2, -1)
    labels = torch.tensor([0, 3])
    with torch.no_grad():
        a, b = gan.generate(Batch(latent=z, label=labels))
        assert not torch.equal(a, b)
        for number, name in enumerate(gan.discriminators):
            image = gan.pictures(batch(1), number)[0].expand(2, -1, -1, -1)
            one, other = gan.get_submodule(name)(image, gan.label(Batch(label=labels)))
            assert one != other, name
    assert gan.label(Batch(label=torch.tensor([2, -1]))).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


def test_every_parameter_of_a_conditional_model_is_trained():
    gan = build(conditional=True, num_classes=4)
    before = {name: p.detach().clone() for name, p in gan.named_parameters()}
    walk(gan, batches_of(batch(label=torch.tensor([0, 1, 2, 3]))), steps=1)
    still = [name for name, p in gan.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_a_conditional_model_asks_for_labels():
    gan = build(conditional=True)
    with pytest.raises(ValueError, match="draws images of a class: the batch has no label"):
        gan.generate(Batch(latent=gan.latent(2)))
    with pytest.raises(TypeError, match="makes no images from noise alone"):
        gan.sample(2)
