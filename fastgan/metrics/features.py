"""Feature networks that metrics measure in. ``random_conv_v1`` is defined here whole: no download, any image size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["FEATURE_NETS", "RandomConvFeatures"]


class RandomConvFeatures(nn.Module):
    """``random_conv_v1``: 256 features of an image from three fixed random convolutions.

    Each stage halves the image (5x5, then 3x3 kernels, zero padding, ReLU). Features: the mean and standard deviation
    of every channel of the first two stages, and of the third the means of its four quadrants and the standard
    deviation: color and texture at three scales, and roughly where. Random features tell distributions apart without
    being trained; they know no objects, so compare their distances with each other only.

    Weights N(0, 2 / fan_in) and biases N(0, 0.1^2) come from ``torch.Generator().manual_seed(20140610)``, stage by
    stage. They never change: a change is another version with another name.

    ``forward`` takes (N, C, H, W) float32 in [-1, 1], H and W at least 1, and returns (N, 256) float32.

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

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.to(torch.float32)
        with torch.autocast(x.device.type, enabled=False):  # the same features inside a half-precision run
            return self._features(x)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        features = []
        for stage in range(3):
            weight, bias = getattr(self, f"weight{stage}"), getattr(self, f"bias{stage}")
            x = F.conv2d(x, weight, bias, stride=2, padding=weight.shape[-1] // 2).relu_()
            if stage < 2:
                features.append(x.mean((2, 3)))
            else:
                features.append(F.adaptive_avg_pool2d(x, 2).flatten(1))
            features.append(x.std((2, 3), correction=0))
        return torch.cat(features, dim=1)


FEATURE_NETS = {RandomConvFeatures.name: RandomConvFeatures}
