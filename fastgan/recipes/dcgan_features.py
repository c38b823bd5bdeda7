"""DCGAN as a feature extractor: Radford et al. 2016, section 5.1 - a linear SVM on the discriminator's features.

The paper trains a DCGAN on ImageNet-1k at 32 px and classifies CIFAR-10 by an L2-SVM on the activations of all the
discriminator's convolutions, max-pooled to 4x4: 82.8% with the whole training set (remembered from its table 1, not
looked up). Here the DCGAN sees CIFAR-10's own training images, without labels, for a minute on one core, with an eighth
of the paper's features; the SVM learns from 5,000 of these images with their labels, a tenth of the paper's, and is
tested on 5,000 of the split test. The bar is what makes the paper's point at this size: features that adversarial
training has found classify better than those of the same network with random weights, and better than raw pixels.

The picture is the paper's figure 5: images that excite the first channels of the last convolution most, and below each
its guided gradient; an untrained discriminator on the left, the trained one on the right.
"""

from __future__ import annotations

from pathlib import Path

from fastgan.analysis.activations import discriminator, untrained
from fastgan.analysis.guided import draw
from fastgan.analysis.probe import probe_all
from fastgan.architectures.dcgan import DCGAN
from fastgan.data import load
from fastgan.recipes import Above, Recipe
from fastgan.recipes._run import train

PRESET = DCGAN.presets["cifar10"]
IMAGES = 5000  # of each split
TRAINED, UNTRAINED, PIXELS = (
    "SVM accuracy on trained features",
    "SVM accuracy on untrained features",
    "SVM accuracy on raw pixels",
)


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train, probe three times and draw the filters; about two minutes on one core."""
    dcgan = train("dcgan", PRESET, out, seed).architecture
    options = {"image_size": dcgan.config.image_size, "size": IMAGES}
    labelled, test = (load(PRESET.data, split=split, **options) for split in ("train", "test"))
    found = probe_all(dcgan, labelled, test, seed)
    networks = {"untrained": untrained(dcgan, seed), "trained": discriminator(dcgan)}
    draw(networks, test, out / "picture.png", channels=4, top=4)
    names = {"trained": TRAINED, "untrained": UNTRAINED, "pixels": PIXELS}
    accuracies = {name: found[what].accuracy for what, name in names.items()}
    return accuracies | {f"penalty chosen, {what}": found[what].penalty for what in names}


RECIPE = Recipe(
    system="DCGAN features",
    data="cifar10",
    paper="82.8% (as remembered; trained on ImageNet, all of CIFAR-10's labels)",
    checks=(Above(TRAINED, UNTRAINED), Above(TRAINED, PIXELS)),
    measure=measure,
)
