"""InfoGAN on scenes whose factors are known: do the codes find what varies? Chen et al. 2016, section 7.2, in numbers.

The paper shows that codes turn and light its rendered faces and chairs (figures 3 and 4), without numbers. Here the
ground truth is there: scenes in which nothing varies but shape and place of one solid and the sky's hue, one code of
as many categories as there are shapes, and two continuous ones. Judged on images of the test split: the rank
correlation of Q's mean of each continuous code with each continuous factor, and how often the likeliest category tells
the shape, each category standing for its most frequent shape among the training images.

The bar: some code and some factor correlate by .8 or more. Factors are independent, so that the squares of one code's
correlations with them add up to 1 at most: from .71 on a code has more of one factor than of all others together, and
.8 leaves a margin. The second code, and the shapes, are reported and bear no bar.

The picture: a row a category. Left: ten draws of everything else. Middle and right: from one draw, each continuous code
from -1 to 1.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fastgan.architectures.infogan import InfoGAN
from fastgan.data import load
from fastgan.recipes import AtLeast, Recipe
from fastgan.recipes._ranks import rank_correlations
from fastgan.recipes._run import train
from fastgan.recipes.infogan import category_names, posterior, save_traversals
from fastgan.training import rng

PRESET = InfoGAN.presets["scenes"]
IMAGES = 2000  # of either split


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train, compare codes with factors, draw the traversals; about two minutes on one CPU core."""
    run = train("infogan", PRESET, out, seed)
    size = run.architecture.config.image_size
    known, test = (load(PRESET.data, image_size=size, size=IMAGES, split=split) for split in ("train", "test"))
    with run.averaged() as gan, rng.isolated(seed, run.device):
        names = category_names(posterior(gan, known)[0], known.labels, gan.config.categories)
        categories, means = posterior(gan, test)
        save_traversals(gan, out / "picture.png", order=names.argsort(stable=True))
    factors = test.continuous(torch.arange(len(test)))
    correlations = torch.stack([rank_correlations(means, values) for values in factors.values()], dim=1).abs()
    measured = {
        f"code {code + 1} and {name}, rank correlation": correlations[code, i].item()
        for code in range(len(correlations))
        for i, name in enumerate(factors)
    }
    return {
        "largest rank correlation": correlations.max().item(),
        **measured,
        "shapes told by the category": (names[categories] == test.labels).double().mean().item(),
        "shapes that are a category's": len(names.unique()),
    }


RECIPE = Recipe(
    system="InfoGAN",
    data="scenes of known factors",
    paper="figures 3 and 4, no numbers",
    checks=(AtLeast("largest rank correlation", 0.8),),
    measure=measure,
    tried="single runs: shape, x and size at 32 px with both rates 2e-3 (.42); shape, x and camera height at 24 px "
    "(.48); shape, x and the sky's hue, this preset (.71 with x).",
)
