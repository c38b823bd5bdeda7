"""Guided backpropagation: what in an image drives a feature of a discriminator.

Springenberg et al. 2014, "Striving for Simplicity: The All Convolutional Net", section 3.4; figure 5 of Radford et al.
2016 (DCGAN) shows it for the last convolution of a trained discriminator beside one with random weights.

The gradient of a feature's largest response with respect to the image, except that negative gradients are set to zero
wherever they arrive at a rectifier's output. A ReLU's own derivative zeroes what was not active: together the paper's
rule. A LeakyReLU, which the paper does not treat, keeps its own derivative too: its slope for negative inputs, so that
the rule becomes the paper's as the slope goes to 0. The other rectifiers of activations.py are treated the same; tanh
and sigmoid pass gradients on as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fastgan.analysis.activations import Watch, feature_maps, image_batches, large_enough, run
from fastgan.analysis.pictures import Tile, enlarge, save_sheet
from fastgan.data.dataset import ImageDataset

__all__ = ["Strongest", "draw", "guided_gradient", "strongest"]

TILE = 48  # pixels that images are enlarged to


@dataclass(frozen=True)
class Strongest:
    """The images to which each channel of a layer responds most, strongest first."""

    images: torch.Tensor  # (channels, top, C, H, W) in [-1, 1]
    responses: torch.Tensor  # (channels, top)


@torch.no_grad()
def strongest(
    network: nn.Module, batches: Iterable[torch.Tensor], layer: int | None, channels: torch.Tensor, top: int
) -> Strongest:
    """Search ``batches`` for the images with the largest activation of ``channels`` anywhere in their map.

    Args:
        network: not fused, takes images alone.
        batches: images (N, C, H, W) in [-1, 1].
        layer: number of the convolution among ``feature_maps``, from 1; None: the last.
        channels: (K,) int64.
        top: how many images for each channel.

    Raises:
        ValueError: there is no such layer or channel.
    """
    best: Strongest | None = None
    for images in batches:
        responses = _layer(feature_maps(network, images), layer, channels).amax((2, 3)).T  # (K, N)
        candidates = images.expand(len(channels), *images.shape)
        if best is not None:
            responses = torch.cat([best.responses, responses], 1)
            candidates = torch.cat([best.images, candidates], 1)
        responses, order = responses.topk(min(top, responses.shape[1]), dim=1)
        best = Strongest(candidates[torch.arange(len(channels))[:, None], order], responses)
    return best


def guided_gradient(
    network: nn.Module, images: torch.Tensor, layer: int | None, channels: torch.Tensor
) -> torch.Tensor:
    """Guided gradients (N, C, H, W), for each image of the unit of its channel that responds most.

    Args:
        network: not fused, takes images alone, in eval mode.
        images: (N, C, H, W) in [-1, 1].
        layer: number of the convolution among ``feature_maps``, from 1; None: the last.
        channels: (N,) int64, a channel for each image.

    Raises:
        ValueError: there is no such layer or channel.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        maps = run(network, images, Watch(gradient=positive))
    maps = _layer(large_enough(maps), layer, channels, each=True)
    units = maps.flatten(1)
    units = units.gather(1, units.argmax(1, keepdim=True))  # one each; amax would share the gradient among equals
    (gradient,) = torch.autograd.grad(units.sum(), images)
    return gradient


def positive(gradient: torch.Tensor) -> torch.Tensor:
    """Without what is negative."""
    return gradient.clamp(min=0)


def draw(
    networks: Mapping[str, nn.Module],
    dataset: ImageDataset,
    path: str | Path,
    *,
    layer: int | None = None,
    channels: int = 6,
    top: int = 6,
) -> Path:
    """Write a PNG with a block for each of ``networks``: for the layer's first channels the strongest images, and
    below each its guided gradient, scaled to its largest value (grey is 0); returns the path.

    Arguments as ``strongest`` takes them; the title above a block is the network's name.
    """
    tiles = []
    for block, (title, network) in enumerate(networks.items()):
        device = next(network.parameters()).device
        numbers = torch.arange(channels, device=device)
        found = strongest(network, image_batches(dataset, device=device), layer, numbers, top)
        images = found.images.flatten(0, 1)
        gradients = guided_gradient(network, images, layer, numbers.repeat_interleave(found.images.shape[1]))
        gradients = gradients / gradients.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
        left = block * (top + 1)
        tiles.append(Tile(0, left, text=title))
        for i, pair in enumerate(zip(enlarge(images, TILE), enlarge(gradients, TILE), strict=True)):
            channel, rank = divmod(i, found.images.shape[1])
            tiles += [Tile(1 + 2 * channel + below, left + rank, image) for below, image in enumerate(pair)]
    return save_sheet(tiles, path, captions=False)


def _layer(maps: list[torch.Tensor], layer: int | None, channels: torch.Tensor, each: bool = False) -> torch.Tensor:
    """Of a layer's maps the ``channels`` (N, K, H, W), or with ``each`` one for each image (N, H, W)."""
    layer = len(maps) if layer is None else layer
    if not 1 <= layer <= len(maps):
        raise ValueError(f"layer is {layer}; this discriminator has the convolutions 1 to {len(maps)}")
    maps = maps[layer - 1]
    width = maps.shape[1]
    if int(channels.min()) < 0 or int(channels.max()) >= width:
        raise ValueError(f"layer {layer} has the channels 0 to {width - 1}, got {channels.tolist()}")
    return maps[torch.arange(len(channels)), channels] if each else maps[:, channels]
