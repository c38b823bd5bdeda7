"""DCGAN: the paper's rules of architecture, at every size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastgan.architectures.dcgan import Discriminator, Generator
from fastgan.data.batch import Batch
from fastgan.registry import create


@pytest.mark.parametrize("image_size", [16, 32, 64, 128, 256])
def test_shapes_at_every_size(image_size):
    generator = Generator(image_size, channels=2, z_dim=5, ngf=2)
    discriminator = Discriminator(image_size, channels=2, ndf=2)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 2, image_size, image_size)
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("image_size", [0, 1, 8, 24, 28, 48, 512])
def test_other_sizes_are_refused(image_size):
    with pytest.raises(ValueError, match=f"image_size takes .*got {image_size}"):
        create("dcgan", image_size=image_size)


def test_the_paper_s_64_px_ladder():
    dcgan = create("dcgan", image_size=64)
    widths = [m.out_channels for m in dcgan.generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert widths == [512, 256, 128, 64, 3]
    widths = [m.out_channels for m in dcgan.discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64, 128, 256, 512, 1]


def test_the_paper_s_rules():
    dcgan = create("dcgan", image_size=32)
    generator, discriminator = list(dcgan.generator.layers), list(dcgan.discriminator.layers)
    assert isinstance(generator[-1], nn.Tanh) and isinstance(generator[-2], nn.ConvTranspose2d)
    assert isinstance(discriminator[1], nn.LeakyReLU), "no batch norm at the discriminator's input"
    assert isinstance(discriminator[-1], nn.Conv2d), "nor a sigmoid: losses take logits"
    assert all(m.negative_slope == 0.2 for m in discriminator if isinstance(m, nn.LeakyReLU))
    for network, conv in ((generator, nn.ConvTranspose2d), (discriminator, nn.Conv2d)):
        for layer, following in zip(network, network[1:], strict=False):
            if isinstance(layer, conv):
                assert (layer.bias is None) == isinstance(following, nn.BatchNorm2d), "a bias before batch norm is idle"
        convs = [m for m in network if isinstance(m, conv)]
        weights = torch.cat([m.weight.detach().flatten() for m in convs])
        assert weights.std() == pytest.approx(0.02, rel=0.02)
        assert abs(weights.mean()) < 1e-3
        norms = [m for m in network if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 3 - (network is discriminator)
        assert all(abs(m.weight.mean() - 1) < 0.02 and not m.bias.any() for m in norms)
    discriminator_phase, generator_phase = dcgan.phases()
    for phase in (discriminator_phase, generator_phase):
        settings = phase.optimizer(phase.parameters).defaults
        assert settings["lr"] == 2e-4 and settings["betas"] == (0.5, 0.999)
    assert discriminator_phase.fresh_batch and not generator_phase.fresh_batch


def test_discriminator_loss_is_2_log_2_where_it_knows_nothing():
    dcgan = create("dcgan", image_size=16, ngf=4, ndf=4)
    with torch.no_grad():
        for p in dcgan.discriminator.layers[-1].parameters():
            p.zero_()
    terms = dcgan.discriminator_loss(Batch(image=torch.zeros(2, 3, 16, 16)), 0)
    assert terms["adversarial"].item() == pytest.approx(2 * math.log(2))
    assert terms["p_real"] == terms["p_fake"] == 0.5
    assert not terms["p_real"].requires_grad, "logged, not trained"
