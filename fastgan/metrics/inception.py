"""The Inception network that FID is defined by, with weights from a file that the user has.

Published FIDs and Inception Scores are those of TensorFlow's graph inception-2015-12-05 (Heusel et al., arXiv
1706.08500). Its weights exist for PyTorch as weights-inception-2015-12-05-6726825d.pth (torch-fidelity, a state dict);
whoever has the file can measure here, without torch-fidelity, which would bring torchvision and with it another torch.

The network differs from torchvision's: average pooling leaves padded pixels out, the last block pools by maximum, 1008
classes, and images are resized to 299 px as TensorFlow 1 did, without antialiasing and from the corner. The Inception
Score takes the logits without their bias, as its authors' code does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fastgan.metrics.features import FeatureNet, to_rgb

__all__ = ["InceptionV3", "load_inception", "resize_as_tensorflow_1"]

PUBLISHED = "6726825d"  # the SHA-256 of the published file begins so
IMAGE_SIZE = 299


class Unit(nn.Module):
    """Convolution without bias, BatchNorm (eps 1e-3), ReLU; ``kernel``, ``padding``: (height, width) or a number."""

    def __init__(self, inputs: int, outputs: int, kernel, stride: int = 1, padding=0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu_()


ROW = {"kernel": (1, 7), "padding": (0, 3)}
COLUMN = {"kernel": (7, 1), "padding": (3, 0)}


def average_pool(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35x35; the branches' names are those of the weights' file, here and below."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inputs, 64, 1)
        self.branch5x5_1 = Unit(inputs, 48, 1)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(inputs, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(inputs, pool, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average_pool(x))], 1)


class BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(inputs, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17x17, 7x7 kernels as rows and columns."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inputs, 192, 1)
        self.branch7x7_1 = Unit(inputs, inner, 1)
        self.branch7x7_2 = Unit(inner, inner, **ROW)
        self.branch7x7_3 = Unit(inner, 192, **COLUMN)
        self.branch7x7dbl_1 = Unit(inputs, inner, 1)
        self.branch7x7dbl_2 = Unit(inner, inner, **COLUMN)
        self.branch7x7dbl_3 = Unit(inner, inner, **ROW)
        self.branch7x7dbl_4 = Unit(inner, inner, **COLUMN)
        self.branch7x7dbl_5 = Unit(inner, 192, **ROW)
        self.branch_pool = Unit(inputs, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(average_pool(x))], 1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(inputs, 192, 1)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(inputs, 192, 1)
        self.branch7x7x3_2 = Unit(192, 192, **ROW)
        self.branch7x7x3_3 = Unit(192, 192, **COLUMN)
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8x8; ``maximum``: pool by the maximum (the last block) instead of the average."""

    def __init__(self, inputs: int, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Unit(inputs, 320, 1)
        self.branch3x3_1 = Unit(inputs, 384, 1)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(inputs, 448, 1)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(inputs, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else average_pool(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(twice),
                self.branch3x3dbl_3b(twice),
                self.branch_pool(pooled),
            ],
            1,
        )


class InceptionV3(FeatureNet):
    """Inception v3 of FID: 2048 features after the average pooling, 1008 classes.

    Args:
        name: of net and weights, which results bear.
    """

    dim = 2048
    num_classes = 1008

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, maximum=False)
        self.Mixed_7c = BlockE(2048, maximum=True)
        self.fc = nn.Linear(self.dim, self.num_classes)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The ends of the five resolutions. Images are rounded to bytes first, as files of samples are."""
        pixels = to_rgb(images).add(1).mul(127.5).round().clamp(0, 255)
        x = (resize_as_tensorflow_1(pixels, IMAGE_SIZE) - 128) / 128
        first = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        second = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(first, 3, stride=2)))
        third = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(second, 3, stride=2))))
        fourth = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(third)))))
        return [first, second, third, fourth, self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(fourth)))]

    def pool(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return maps[-1].mean((2, 3))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.fc.weight.T


def resize_as_tensorflow_1(images: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear, output pixel i at i * old / new of the input (no half-pixel shift), no antialiasing; (N, C, H, W)."""

    def neighbours(old: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        at = torch.arange(size, dtype=torch.float32, device=images.device) * (old / size)
        low = at.long()
        return low, (low + 1).clamp_max(old - 1), at - low

    low, high, share = neighbours(images.shape[3])
    left, right = images[..., low], images[..., high]
    images = left + (right - left) * share
    low, high, share = neighbours(images.shape[2])
    top, bottom = images[..., low, :], images[..., high, :]
    return top + (bottom - top) * share[:, None]


def load_inception(path: Path) -> InceptionV3:
    """The net with the weights of ``path``. ``inception_v3_2015_12_05`` where they are the published file, else named
    by their digest.

    Raises:
        ValueError: the file is no state dict of this network.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)  # tensors only: no code of the file runs
        net = InceptionV3("inception_v3_2015_12_05" if found == PUBLISHED else f"inception_v3-{found}")
        net.load_state_dict(weights)
    except Exception as error:  # torch.load raises whatever a stranger's file makes it raise
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{str(path)!r} does not hold FID's Inception weights (weights-inception-2015-12-05-6726825d.pth of "
            f"torch-fidelity's releases): {reason}"
        ) from error
    return net
