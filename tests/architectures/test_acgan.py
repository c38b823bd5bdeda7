"""AC-GAN: both networks are driven by source and class."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastgan.data.batch import Batch
from fastgan.registry import create


def test_losses_are_those_of_source_and_class():
    torch.manual_seed(0)
    gan = create("acgan", image_size=16, channels=1, ngf=4, ndf=2, dropout=0.0)
    batch = Batch(image=torch.rand(6, 1, 16, 16), label=torch.arange(6), latent=torch.randn(6, 100))
    terms = gan.discriminator_loss(batch, 0), gan.generator_loss(batch, 0)
    (source, classes), (fake_source, fake_classes) = (gan.discriminator(x) for x in (batch.image, gan.generate(batch)))
    assert classes.shape == (6, 10) and source.shape == (6,)
    real, fake = F.cross_entropy(classes, batch.label), F.cross_entropy(fake_classes, batch.label)
    torch.testing.assert_close(terms[0]["class"], real + fake)
    torch.testing.assert_close(terms[1]["class"], fake)
    torch.testing.assert_close(terms[0]["source"], F.softplus(-source).mean() + F.softplus(fake_source).mean())
    torch.testing.assert_close(terms[1]["source"], F.softplus(-fake_source).mean())
