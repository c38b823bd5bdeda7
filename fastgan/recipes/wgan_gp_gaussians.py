"""WGAN-GP on a grid of 25 Gaussians: Gulrajani et al. 2017, all modes, and samples closer to them than WGAN's.

The paper has value surfaces of the critic on these data, not counts (figure 1). Perceptrons are 128 wide and Adam's
rate is 2e-3, where the authors' script has 512 and 1e-4 over 100 000 steps; the penalty's weight is theirs for toy
data, 0.1. WGAN is this library's preset for the same data, with as many steps and the same networks and batches (its
warm-up gives its critic some updates more). The averaged generators are judged by 2500 samples each; a good one lies
within three standard deviations of a mode. Left WGAN, right WGAN-GP; samples blue, data orange.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fastgan.architectures.wgan import WGAN
from fastgan.architectures.wgan_gp import WGANGP
from fastgan.recipes import Above, AtLeast, Recipe
from fastgan.recipes._points import coverage, save_panels
from fastgan.recipes._run import train

DATA = "gaussians_25"


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train both for the steps of WGAN-GP's preset, draw and count; about two minutes on one CPU core."""
    ours = WGANGP.presets[DATA]
    measured, panels = {}, []
    for name, preset in (("wgan", replace(WGAN.presets[DATA], steps=ours.steps)), ("wgan_gp", ours)):
        found, panel = coverage(train(name, preset, out, seed))
        measured |= {
            f"modes hit, {name}": found.modes,
            f"share of good samples, {name}": found.high_quality,
            f"KL of the modes' shares, {name}": found.kl,
        }
        panels.append(panel)
    save_panels(panels, out / "picture.png")
    return measured


RECIPE = Recipe(
    system="WGAN-GP",
    data="25 Gaussians",
    paper="value surfaces, no counts (figure 1)",
    checks=(
        AtLeast("modes hit, wgan_gp", 25),
        Above("share of good samples, wgan_gp", than="share of good samples, wgan"),
    ),
    measure=measure,
)
