"""The networks of the optimiser, penalty and step rows: fastgan's own architectures as plain torch modules."""

from __future__ import annotations

import torch
from torch import nn

from fastgan import registry
from fastgan.bench.case import SEED

__all__ = ["build", "instance_norm_critic", "networks_of"]


def build(name: str, device: torch.device, upcast: bool = False, **options: object) -> nn.Module:
    """The architecture ``name`` with the weights of a fixed seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        gan = registry.create(name, **options)
    return (gan.double() if upcast else gan).to(device)


def networks_of(gan: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator or critic)."""
    return gan.generator, gan.discriminator if hasattr(gan, "discriminator") else gan.critic


def instance_norm_critic(image_size: int, channels: int, ndf: int) -> nn.Sequential:
    """A critic that is not piecewise linear, as WGAN-GP's section 4 recommends norms over single samples.

    Images (N, channels, image_size, image_size) -> logits (N, 1, 1, 1).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        layers: list[nn.Module] = [nn.Conv2d(channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        size, width = image_size // 2, ndf
        while size > 4:
            layers += [
                nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
                nn.InstanceNorm2d(2 * width, affine=True),
                nn.LeakyReLU(0.2),
            ]
            size, width = size // 2, 2 * width
        return nn.Sequential(*layers, nn.Conv2d(width, 1, 4))
