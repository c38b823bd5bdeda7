"""WGAN-GP against WGAN on CIFAR-10: Gulrajani et al., NeurIPS 2017 - the penalty trains better than the clip.

Both train by their cifar10 presets: the same generator and batch, the same number of critic and of generator updates
(a WGAN-GP update costs more time). They differ as the papers' do: WGAN's critic has batch norm, WGAN-GP's must not;
RMSProp against Adam; WGAN-GP's learning rate falls to 0, as in its authors' CIFAR-10 script, WGAN's stays. Learning
rates were chosen among three for each, with another seed (WGAN's 2e-4 and 4e-4 did equally well; letting them fall too
left WGAN far above WGAN-GP). The feature distance is that of fastgan/recipes/_distance.py, averaged over five looks in
the last fifth of the training. CIFAR-10 is re-coded as JPEG here.

The paper's figure 2 compares Inception Scores over 200,000 updates; published for WGAN-GP with residual networks are
Inception Score 7.33 and FID 22.29 (mimicry, 100,000 steps). Neither compares with random features after minutes: a run
of that length with Inception features is owed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fastgan import registry
from fastgan.recipes import Below, Recipe
from fastgan.recipes._distance import Distances, last_fifth, mean
from fastgan.recipes._run import train
from fastgan.training import rng
from fastgan.training.grid import save_grid
from fastgan.training.preset import get_preset

PRESET = "cifar10"
NAMES = ("wgan", "wgan_gp")
SAMPLES = 24  # of each, in the picture: WGAN's above


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train both and measure; about three minutes on one CPU core."""
    measured, samples = {}, []
    for name in NAMES:
        distances = Distances(last_fifth(get_preset(registry.get(name), PRESET).steps))
        trainer = train(name, PRESET, out, seed, callbacks=[distances])
        measured[f"{name}: distance"] = mean(distances.averaged)
        measured[f"{name}: distance of the live generator"] = mean(distances.live)
        with trainer.averaged() as architecture, rng.isolated(seed):
            samples.append(architecture.sample(SAMPLES))
    save_grid(torch.cat(samples), out / "picture.png", columns=12)
    return measured


RECIPE = Recipe(
    system="WGAN-GP",
    data="cifar10, 32 px, re-coded as JPEG",
    paper="Inception Score above WGAN's over 200,000 updates (figure 2)",
    checks=(Below("wgan_gp: distance", than="wgan: distance"),),
    measure=measure,
)
