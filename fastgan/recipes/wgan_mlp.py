"""WGAN trains a generator without convolutions and without batch norm: Arjovsky et al., ICML 2017, section 4.3.

The generator is the paper's: a ReLU perceptron with three hidden layers of 512 units, against a DCGAN's critic. Bar:
its feature distance at the end is at most half of that at a tenth of the training (fastgan/recipes/_distance.py). The
paper shows samples (figure 7), WGAN's beside those of a standard GAN with the same networks, which it finds worse and
collapsed in part. That GAN is trained here too, with as many updates of both networks together on batches of the same
size and DCGAN's Adam, and its number stands beside; on data as simple as this it need not collapse, and no bar asks it
to. Both critics have batch norm, as in DCGAN. 16 px, because a perceptron takes many updates; WGAN's learning rate is
four times the paper's, for a hundredth of its steps.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fastgan import registry
from fastgan.architectures.base import Architecture, Preset
from fastgan.architectures.wgan import build_generator
from fastgan.recipes import Recipe
from fastgan.recipes._distance import HALVED, Distances, of_real_images, tenth_and_end
from fastgan.recipes._run import train
from fastgan.training import rng
from fastgan.training.grid import save_grid
from fastgan.training.trainer import Trainer

PRESET = Preset(
    "fashion_mnist", 1500, 32, {"image_size": 16, "generator": "mlp", "ndf": 16, "lr": 2e-4, "n_critic_warmup": 20}
)
SAMPLES = 24  # of each, in the picture: WGAN's above


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train both and measure; about two minutes on one CPU core."""
    steps = PRESET.steps
    distances = Distances((steps // 10, steps))
    wgan = train("wgan", PRESET, out, seed, callbacks=[distances])
    gan, its_distances = standard_gan(wgan)
    save_grid(torch.cat([samples(wgan), samples(gan)]), out / "picture.png", columns=12)
    return {
        **tenth_and_end(distances, steps),
        **{f"standard GAN: {name}": value for name, value in tenth_and_end(its_distances, gan.steps).items()},
        "distance of real images": of_real_images(wgan),
    }


def standard_gan(wgan: Trainer) -> tuple[Trainer, Distances]:
    """The standard GAN after as many updates as ``wgan``, and what was measured of it."""
    config = wgan.architecture.config
    updates = wgan.steps * (config.n_critic + 1)
    distances = Distances((updates // 20, updates // 2))
    torch.manual_seed(wgan.seed)
    trainer = Trainer(
        networks(config), wgan.batches.dataset, steps=updates // 2, batch_size=wgan.batches.batch_size, seed=wgan.seed,
        callbacks=[distances], log_every=None, progress=False,
    )  # fmt: skip
    trainer.fit()
    return trainer, distances


def networks(config: Architecture.Config) -> Architecture:
    """DCGAN's game between WGAN's generator, by its ``config``, and a discriminator like WGAN's critic."""
    game = registry.create("dcgan", image_size=config.image_size, channels=config.channels, ndf=config.ndf)
    game.generator = build_generator(config)
    return game


def samples(trainer: Trainer) -> torch.Tensor:
    with trainer.averaged() as architecture, rng.isolated(trainer.seed, trainer.device):
        return architecture.sample(SAMPLES)


RECIPE = Recipe(
    system="WGAN",
    data="fashion_mnist, 16 px",
    paper="samples judged by eye (figure 7)",
    checks=(HALVED,),
    measure=measure,
)
