"""Feature networks that metrics measure in: what each offers, and how a name or a file becomes one.

``random_conv_v1`` is defined here whole: no download, any image size. The others are in classifier.py (trained by the
user), efficientnet.py (a package) and inception.py (a file that the user has).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fastgan._words import did_you_mean

__all__ = ["FEATURE_NETS", "FeatureNet", "RandomConvFeatures", "digest", "load_features", "to_rgb"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class FeatureNet(nn.Module):
    """A fixed network that describes images. A subclass defines ``maps``, ``pool``, and ``head`` where it classifies.

    Images are (N, C, H, W) floating in [-1, 1] of any size; the net resizes them as it was trained. ``name`` stands in
    every result: it names architecture and weights, and weights that may differ bring their ``digest``.
    """

    name: str
    dim: int  # features of an image
    num_classes: int | None = None  # None: no classifier, hence no Inception Score

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Activations of successive stages, (N, C_l, H_l, W_l) each; differentiable."""
        raise NotImplementedError(f"{type(self).__name__} does not define maps()")

    def pool(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Features (N, dim) from what ``maps`` returned."""
        raise NotImplementedError(f"{type(self).__name__} does not define pool()")

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) from features (N, dim)."""
        raise NotImplementedError(f"feature net {self.name!r} does not classify")

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, dim) float32, the same inside a half-precision run."""
        with torch.autocast(images.device.type, enabled=False):
            return self.pool(self.maps(images.to(torch.float32)))

    def freeze(self) -> FeatureNet:
        """Eval mode, and weights that no optimiser and no gradient touches."""
        return self.eval().requires_grad_(False)


class RandomConvFeatures(FeatureNet):
    """``random_conv_v1``: 256 features of an image from three fixed random convolutions.

    Each stage halves the image (5x5, then 3x3 kernels, zero padding, ReLU). Features: the mean and standard deviation
    of every channel of the first two stages, and of the third the means of its four quadrants and the standard
    deviation: color and texture at three scales, and roughly where. Random features tell distributions apart without
    being trained; they know no objects, so compare their distances with each other only.

    Weights N(0, 2 / fan_in) and biases N(0, 0.1^2) come from ``torch.Generator().manual_seed(20140610)``, stage by
    stage. They never change: a change is another version with another name.

    Args:
        channels: C of the images.
    """

    name = "random_conv_v1"
    dim = 256

    def __init__(self, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(20140610)
        self.channels = channels
        for stage, (inputs, outputs, kernel) in enumerate([(channels, 16, 5), (16, 32, 3), (32, 32, 3)]):
            weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
            weight *= (2 / (inputs * kernel * kernel)) ** 0.5
            self.register_buffer(f"weight{stage}", weight)
            self.register_buffer(f"bias{stage}", torch.randn(outputs, generator=generator) * 0.1)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        x, maps = images, []
        for stage in range(3):
            weight, bias = getattr(self, f"weight{stage}"), getattr(self, f"bias{stage}")
            x = F.conv2d(x, weight, bias, stride=2, padding=weight.shape[-1] // 2).relu_()
            maps.append(x)
        return maps

    def pool(self, maps: list[torch.Tensor]) -> torch.Tensor:
        features = []
        for stage, x in enumerate(maps):
            features.append(x.mean((2, 3)) if stage < 2 else F.adaptive_avg_pool2d(x, 2).flatten(1))
            features.append(x.std((2, 3), correction=0))
        return torch.cat(features, dim=1)


# -- by name or file ---------------------------------------------------------------------------------------------------


def _efficientnet_lite0(channels: int) -> FeatureNet:
    from fastgan.metrics.efficientnet import efficientnet_lite0

    return efficientnet_lite0()


FEATURE_NETS = {"random_conv_v1": RandomConvFeatures, "efficientnet_lite0": _efficientnet_lite0}


def load_features(spec: str | os.PathLike | FeatureNet, channels: int) -> FeatureNet:
    """The feature net that ``spec`` names, frozen.

    Args:
        spec: a name in ``FEATURE_NETS``; a ``.safetensors`` file that ``fastgan train-features`` wrote; a ``.pth`` file
            of the Inception weights that FID is defined by (fastgan.metrics.inception); or a net already made.
        channels: C of the images to come. Nets of colour take grey and transparent images too.

    Raises:
        ValueError: an unknown name, or a file of something else.
        FileNotFoundError: no such file.
        ImportError: a package is missing; the sentence names it.
    """
    if isinstance(spec, FeatureNet):
        return spec.freeze()
    spec = os.fspath(spec)
    if spec in FEATURE_NETS:
        return FEATURE_NETS[spec](channels).freeze()
    path = Path(spec).expanduser()
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(
            f"features takes {', '.join(FEATURE_NETS)}, a .safetensors file of `fastgan train-features` or a .pth file "
            f"of FID's Inception weights, got {spec!r}{did_you_mean(spec, FEATURE_NETS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no feature net {str(path)!r}{_how_to_get(path)}")
    if path.suffix == ".pth":
        from fastgan.metrics.inception import load_inception

        return load_inception(path).freeze()
    from fastgan.metrics.classifier import load_classifier

    return load_classifier(path).freeze()


def _how_to_get(path: Path) -> str:
    if path.suffix == ".safetensors":
        return f": `fastgan train-features --out {path}` makes one"
    return (
        ": FID's Inception weights are the file weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases"
    )


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) in [-1, 1] with C of 1, 3 or 4 to (N, 3, H, W): grey repeated, transparency over white."""
    channels = images.shape[1]
    if channels == 3:
        return images
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    if channels == 4:
        return 1 + (images[:, :3] - 1) * (images[:, 3:] + 1) / 2
    raise ValueError(f"images of {channels} channels have no colours: this feature net takes 1, 3 or 4")


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Eight hexadecimal digits of weights, the same for the same bits."""
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"
