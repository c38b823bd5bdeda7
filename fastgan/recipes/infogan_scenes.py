"""InfoGAN on scenes whose factors are known: do the codes find what varies? Chen et al. 2016, section 7.2, in numbers.

The paper shows that codes turn and light its rendered faces and chairs (figures 3 and 4), without numbers. Here the
ground truth is there: scenes in which nothing varies but shape and place of one solid and the sky's hue. As for the
paper's faces all codes are continuous ones, two here; noise is left to explain the rest. Beside a categorical code the
continuous ones find the place as well, but from left to right in one category and back in the next, which a correlation
over all images does not see. Judged on images of the test split: the rank correlation of Q's mean of each code with
each continuous factor.

The bar: some code and some factor correlate by .8 or more. Factors are independent, so that the squares of one code's
correlations with them add up to 1 at most: from .71 on a code has more of one factor than of all others together, and
.8 leaves a margin. The other code is reported and bears no bar. What is found is the place, which changes images far
more than the hue of the sky: of this neither code tells anything.

The picture: a row a draw of everything else. Left and right: each code from -1 to 1.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fastgan.architectures.infogan import InfoGAN
from fastgan.data import load
from fastgan.recipes import AtLeast, Recipe
from fastgan.recipes._ranks import rank_correlations
from fastgan.recipes._run import train
from fastgan.recipes.infogan import continuous_panels, posterior, save_panels
from fastgan.training import rng

PRESET = InfoGAN.presets["scenes"]
IMAGES = 2000  # of the test split
ROWS = 8  # of the picture


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train, compare codes with factors, draw the traversals; about a minute on one CPU core."""
    run = train("infogan", PRESET, out, seed)
    test = load(PRESET.data, image_size=run.architecture.config.image_size, size=IMAGES, split="test")
    with run.averaged() as gan, rng.isolated(seed, run.device):
        means = posterior(gan, test).mean
        save_panels(gan, out / "picture.png", continuous_panels(gan, gan.latent(ROWS)))
    factors = test.continuous(torch.arange(len(test)))
    correlations = torch.stack([rank_correlations(means, values) for values in factors.values()], dim=1).abs()
    measured = {
        f"code {code + 1} and {name}, rank correlation": correlations[code, i].item()
        for code in range(len(correlations))
        for i, name in enumerate(factors)
    }
    return {"largest rank correlation": correlations.max().item(), **measured}


RECIPE = Recipe(
    system="InfoGAN",
    data="scenes of known factors",
    paper="figures 3 and 4, no numbers",
    checks=(AtLeast("largest rank correlation", 0.8),),
    measure=measure,
)
