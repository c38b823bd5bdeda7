"""Weight initialisation."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

__all__ = ["dcgan_init"]

Module = TypeVar("Module", bound=nn.Module)

STD = 0.02
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


@torch.no_grad()
def dcgan_init(module: Module) -> Module:
    """Initialise every layer of ``module`` as DCGAN does, in place, and return it.

    Convolutions, transposed convolutions and linear layers: weight ~ N(0, 0.02), bias left as it is.
    BatchNorm: weight ~ N(1, 0.02), bias 0; without affine parameters nothing.

    Source: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks" (2016), section 4; the BatchNorm values as in the authors' and PyTorch's DCGAN code.
    """
    for layer in module.modules():
        if isinstance(layer, _WEIGHTED):
            nn.init.normal_(layer.weight, 0.0, STD)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, STD)
            nn.init.zeros_(layer.bias)
    return module
