"""Conditional GAN, given part of an image: the hole is filled better than by the mean of all images.

Mirza and Osindero 2014 condition on any part of the data, inpainting among their examples after Goodfellow et al. 2013,
and show none of it; the networks are those of Pathak et al., "Context Encoders", CVPR 2016, who report PSNR 18.58 dB on
Paris StreetView (remembered from their table 2, not looked up). Here the middle 16x16 pixels of a 32 px Fashion-MNIST
picture are hidden, a quarter of it, and lambda_l1 adds ten times the L1 distance to the generator's loss.

The bar: on images of the test split, the hole's mean squared error (pixels in [-1, 1]) is below that of the mean of the
training images there, pixel by pixel, which of all fills that do not look at the image has the least. Reported beside
it: the mean of the image's own visible pixels, and PSNR within the hole of all three, averaged over the images.

The picture: test images with their hole, filled by the averaged generator, and as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from fastgan import Batch
from fastgan.architectures.cgan import CGAN
from fastgan.data import ImageDataset, load, normalize
from fastgan.metrics import psnr
from fastgan.recipes import Below, Recipe
from fastgan.recipes._run import train
from fastgan.training import rng
from fastgan.training.grid import save_grid

PRESET = CGAN.presets["fashion_mnist_inpainting"]
IMAGES = 10_000  # of the test split
COLUMNS, BANDS, ZOOM = 12, 2, 2  # of the picture
BATCH = 500
INPAINTING, MEAN_FILL = "inpainting", "mean of the training images"
Fill = Callable[[torch.Tensor], torch.Tensor]


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train, fill the test images' holes in three ways, draw; about a minute and a half on one CPU core."""
    run = train("cgan", PRESET, out, seed)
    known = run.batches.dataset
    test = load(PRESET.data, image_size=known.image_size, split="test", size=IMAGES)
    with run.averaged() as gan, torch.no_grad(), rng.isolated(seed, run.device):
        middle, visible, average = gan.generator.middle, gan.generator.known, mean_image(known)
        fills = {
            INPAINTING: lambda images: middle(gan.generate(Batch(image=images))),
            MEAN_FILL: lambda images: middle(average),
            "mean of the visible pixels": lambda images: visible_mean(images, visible),
        }
        found = {name: errors(fill, middle, test) for name, fill in fills.items()}
        draw(gan, test, out / "picture.png")
    squared = {f"squared error, {name}": error for name, (error, _) in found.items()}
    return squared | {f"PSNR in dB, {name}": decibels for name, (_, decibels) in found.items()}


def errors(fill: Fill, middle: Fill, data: ImageDataset) -> tuple[float, float]:
    """Of the holes of all images of ``data``: mean squared error, and mean PSNR in dB.

    ``fill(images)`` gives what fills their holes, ``middle(images)`` what is there: (N, C, H, W) or one for all.
    """
    squares, decibels = [], []
    for indices in torch.arange(len(data)).split(BATCH):
        images = normalize(data.batch(indices)["image"])
        true = middle(images)
        filled = fill(images).expand_as(true)
        squares.append(F.mse_loss(filled, true, reduction="none").mean((1, 2, 3)))
        decibels.append(psnr(filled, true, data_range=2.0))
    return torch.cat(squares).mean().item(), torch.cat(decibels).mean().item()


def mean_image(data: ImageDataset) -> torch.Tensor:
    """(C, H, W) in [-1, 1]: the mean of all images of ``data``."""
    batches = torch.arange(len(data)).split(BATCH)
    total = sum(normalize(data.batch(indices)["image"]).double().sum(0) for indices in batches)
    return (total / len(data)).float()


def visible_mean(images: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(N, C, 1, 1): the mean of each image where ``known`` (H, W) is 1 and not 0."""
    return (images * known).sum((2, 3), keepdim=True) / known.sum()


def draw(gan: CGAN, data: ImageDataset, file: Path) -> None:
    """In bands of three rows: images with their hole, filled, and as they are."""
    images = normalize(data.batch(range(COLUMNS * BANDS))["image"])
    rows = torch.stack([images * gan.generator.known, gan.generate(Batch(image=images)), images])  # (3, N, C, H, W)
    bands = rows.unflatten(1, (BANDS, COLUMNS)).transpose(0, 1)
    save_grid(F.interpolate(bands.flatten(0, 2), scale_factor=ZOOM), file, columns=COLUMNS)


RECIPE = Recipe(
    system="Conditional GAN, inpainting",
    data="fashion_mnist, 32 px, the middle 16x16 hidden",
    paper="none; PSNR 18.58 dB on StreetView as remembered (Pathak et al. 2016)",
    checks=(Below(f"squared error, {INPAINTING}", than=f"squared error, {MEAN_FILL}"),),
    measure=measure,
)
