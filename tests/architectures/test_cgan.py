"""Conditional GAN: conditions reach both networks, holes alone are filled, bad conditions are named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan.data.batch import Batch
from fastgan.registry import create

from .walk import batches_of, walk

DCGAN = {"network": "dcgan", "image_size": 32, "channels": 1, "ngf": 4, "ndf": 4, "z_dim": 8}
OPTIONS = {
    "mlp": {"image_size": 8, "channels": 1, "hidden": (8, 8, 8), "maxout_units": (8, 4, 8)},
    "dcgan": DCGAN,
    "context": {**DCGAN, "condition": "context", "context_dim": 8, "lambda_l1": 10.0},
}


def build(kind: str, **options):
    torch.manual_seed(0)
    return create("cgan", **{**OPTIONS[kind], **options})


def batch_for(gan, n: int = 6) -> Batch:
    size = gan.config.image_size
    return Batch(image=torch.rand(n, 1, size, size) * 2 - 1, label=torch.arange(n) % 10)


@pytest.mark.parametrize("kind", ["mlp", "dcgan"])
def test_the_label_reaches_both_networks(kind):
    gan = build(kind).eval()
    one, other = (Batch(label=torch.full((4,), y), latent=torch.zeros(4, gan.config.z_dim)) for y in (1, 2))
    assert not torch.equal(gan.generate(one), gan.generate(other))
    image = batch_for(gan, 4).image
    assert not torch.equal(gan.discriminator(image, *gan.given(one)), gan.discriminator(image, *gan.given(other)))
    assert torch.equal(gan.given(one)[0], F.one_hot(one.label, 10).float())


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_trains_with_every_way_of_judging(kind):
    for options in ({}, {"separate_batches": False}, {"regularizer": "r1"}, {"loss": "relativistic"}):
        gan = build(kind, **options)
        assert walk(gan, batches_of(batch_for(gan)), steps=1) == {
            ("train", "discriminator"): 1,
            ("train", "generator"): 1,
        }


def test_only_the_hole_is_drawn_and_nothing_of_it_is_seen():
    gan = build("context").eval()
    batch = batch_for(gan).replace(latent=torch.zeros(6, 8))
    middle = gan.generator.middle(torch.arange(32 * 32).view(32, 32))
    assert middle.shape == (16, 16) and middle[0, 0] == 8 * 32 + 8 and middle[-1, -1] == 23 * 32 + 23
    filled = gan.generate(batch)
    frame = gan.generator.frame(torch.zeros(16, 16), 1.0).bool()
    assert torch.equal(filled[..., frame], batch.image[..., frame])
    hidden = batch.image.clone()
    hidden[..., ~frame] = 0.3
    assert torch.equal(gan.generate(batch.replace(image=hidden)), filled)
    hidden[..., 0, 0] = -hidden[..., 0, 0]
    assert not torch.equal(gan.generate(batch.replace(image=hidden))[..., ~frame], filled[..., ~frame])


def test_the_l1_term_is_that_of_the_hole():
    gan = build("context", loss="wasserstein")
    batch = batch_for(gan).replace(latent=torch.zeros(6, 8))
    terms = gan.generator_loss(batch, 0)
    fake = gan.generate(batch)
    torch.testing.assert_close(terms["l1"], 10 * 4 * (fake - batch.image).abs().mean())  # a quarter of the pixels


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "give the batch a label"),
        (torch.tensor([0, 10]), r"takes classes 0..9, got 10"),
        (torch.tensor([0, -1]), r"takes classes 0..9, got -1"),
        (torch.zeros(2, 10), r"takes class indices \(N,\) int64, got \(2, 10\) torch.float32"),
    ],
)
@pytest.mark.parametrize("name", ["cgan", "acgan"])
def test_bad_labels_are_named(name, label, message):
    gan = create(name, image_size=16, channels=1)
    with pytest.raises(ValueError, match=message):
        gan.generate(Batch(label=label, latent=torch.zeros(2, 100)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": "context"}, "condition='context' takes network='dcgan' and image_size from 32, got 'mlp'"),
        ({"condition": "context", "network": "dcgan", "image_size": 16}, "got 'dcgan' and 16"),
        ({"lambda_l1": 1.0}, "lambda_l1 takes condition='context'"),
        ({"replay": 5}, "replay takes condition='context'"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        create("cgan", **options)


def test_rates_of_the_paper_and_of_dcgan():
    discriminator, generator = build("mlp", discriminator_lr=0.05).phases()
    assert generator.schedule(0) == {"lr": 0.1, "momentum": 0.5}
    assert discriminator.schedule(1)["lr"] == pytest.approx(0.05 / 1.00004)
    (_, generator) = build("dcgan").phases()
    assert generator.optimizer(generator.parameters).defaults["lr"] == 2e-4
