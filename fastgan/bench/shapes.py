"""Shapes of real GANs: DCGAN's layers at 64 px and the networks whose training steps are timed.

Nothing here is invented for a benchmark: the layers are those of Radford et al. (2016) as PyTorch's DCGAN example has
them, with ngf = ndf = 64 and the ends included (1x1 to 4x4, RGB, 4x4 to one logit); WGAN-GP's critic is the same
without BatchNorm.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BATCH_SIZE", "CUDA_BATCH_SIZE", "DISCRIMINATOR", "GENERATOR", "GP_CRITIC", "IMAGE_SIZE", "Z_DIM", "ConvLayer",
]  # fmt: skip

BATCH_SIZE = 64
CUDA_BATCH_SIZE = 128
IMAGE_SIZE = 64
Z_DIM = 100
CHANNELS = 3


@dataclass(frozen=True)
class ConvLayer:
    """One 4x4 convolution with what follows it."""

    name: str
    transposed: bool
    c_in: int
    c_out: int
    size: int  # height and width of the input
    stride: int
    padding: int
    norm: bool
    bias: bool
    activation: str  # as in fastgan.ops
    kernel_size: int = 4

    @property
    def out_size(self) -> int:
        if self.transposed:
            return (self.size - 1) * self.stride - 2 * self.padding + self.kernel_size
        return (self.size + 2 * self.padding - self.kernel_size) // self.stride + 1


def _layer(net: str, transposed: bool, c_in: int, c_out: int, size: int, norm: bool, activation: str) -> ConvLayer:
    """A layer of DCGAN: stride 2 and padding 1, but stride 1 and no padding between 1x1 and 4x4."""
    end = size == (1 if transposed else 4) and (transposed or c_out == 1)
    stride, padding = (1, 0) if end else (2, 1)
    name = f"{net} {c_in}->{c_out} @{size}"
    return ConvLayer(name, transposed, c_in, c_out, size, stride, padding, norm, not norm, activation)


GENERATOR = (
    _layer("G", True, Z_DIM, 512, 1, True, "relu"),
    _layer("G", True, 512, 256, 4, True, "relu"),
    _layer("G", True, 256, 128, 8, True, "relu"),
    _layer("G", True, 128, 64, 16, True, "relu"),
    _layer("G", True, 64, CHANNELS, 32, False, "tanh"),
)

DISCRIMINATOR = (
    _layer("D", False, CHANNELS, 64, 64, False, "leaky_relu"),
    _layer("D", False, 64, 128, 32, True, "leaky_relu"),
    _layer("D", False, 128, 256, 16, True, "leaky_relu"),
    _layer("D", False, 256, 512, 8, True, "leaky_relu"),
    _layer("D", False, 512, 1, 4, False, "none"),
)

# Layers of WGAN-GP's critic that the discriminator does not have: its inner ones, without BatchNorm and with a bias.
GP_CRITIC = (
    _layer("critic", False, 64, 128, 32, False, "leaky_relu"),
    _layer("critic", False, 256, 512, 8, False, "leaky_relu"),
)
