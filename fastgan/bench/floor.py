"""Counted before anything is timed: the fewest bytes and floating-point operations of an op, a layer, a step.

Bytes: every tensor that has to be read is read once, every one that has to be written is written once; vectors of one
value a channel or a sample are not counted. Operations: a multiply-add is two; padding is counted as if it were image.
Divided by the speed of a copy and of a matrix product (ceilings.py) they are the least time, the floor.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastgan.bench.shapes import ConvLayer

__all__ = ["PASSES", "Network", "Work", "bytes_of", "convolution", "layer_work"]

# Tensors of full size that one call reads or writes.
PASSES = {
    "bn_stats": 1,  # z
    "bn_act": 2,  # z, y
    "bn_act_backward_reduce": 2,  # grad_y, z
    "bn_act_backward_elemt": 3,  # grad_y, z, grad_z
    "interpolate": 3,  # real, fake, x_hat
    "penalty": 2,  # grad, grad_penalty: a sample is kept on the chip between its norm and its gradient
    "leaky_mask_mul": 3,  # t, y, the product
    "clip_weights_": 2,  # a parameter read, and written
    "rmsprop_clip_": 5,  # parameter and square_avg read and written, gradient read
    "adam": 7,  # the same with two moments
}


@dataclass(frozen=True)
class Work:
    """What a call cannot do without."""

    bytes: int
    flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops)


def bytes_of(op: str, shapes: Iterable[Sequence[int]], dtype: torch.dtype) -> int:
    """Bytes that ``op`` has to move. shapes: of the image, or of every parameter that it works on."""
    return PASSES[op] * sum(math.prod(shape) for shape in shapes) * dtype.itemsize


def convolution(layer: ConvLayer, batch_size: int) -> int:
    """Floating-point operations of the layer's convolution; of either of its gradients there are as many."""
    positions = layer.size if layer.transposed else layer.out_size
    return 2 * batch_size * layer.c_in * layer.c_out * layer.kernel_size**2 * positions**2


def layer_work(layer: ConvLayer, batch_size: int, mode: str, dtype: torch.dtype) -> Work:
    """A convolution with what follows it, in one of the modes "forward", "backward", "both", "eval"."""
    x = batch_size * layer.c_in * layer.size**2
    y = batch_size * layer.c_out * layer.out_size**2
    weight = layer.c_in * layer.c_out * layer.kernel_size**2
    kept = 1 if layer.norm else 0  # z, which backward needs beside y
    forward = Work((x + weight + y) * dtype.itemsize, convolution(layer, batch_size))
    if mode == "eval":
        return forward
    # statistics need all of z before the first y: it is written, and read again
    forward += Work(2 * kept * y * dtype.itemsize)
    backward = Work((2 * (x + weight) + (1 + kept) * y) * dtype.itemsize, 2 * convolution(layer, batch_size))
    return {"forward": forward, "backward": backward, "both": forward + backward}[mode]


@dataclass(frozen=True)
class Network:
    """A network at one batch: operations of a forward pass, elements of what its convolutions return."""

    flops: int
    first_flops: int  # of its first layer
    activations: int
    parameters: tuple[tuple[int, ...], ...]  # their shapes

    @classmethod
    def of(cls, net: nn.Module, *shape: int) -> Network:
        """Counted in a forward pass without memory and without values. shape: of the input."""
        net, outputs = copy.deepcopy(net).to("meta"), []
        layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
        for layer in layers:
            layer.register_forward_hook(lambda layer, x, y: outputs.append(y.numel()))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.empty(shape, device="meta"))
        by_layer = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
        first = next(name for name, m in net.named_modules() if m is layers[0])
        return cls(
            counter.get_total_flops(),
            next(flops for name, flops in by_layer.items() if name.endswith(f".{first}")),
            sum(outputs),
            tuple(tuple(p.shape) for p in net.parameters()),
        )

    def forward(self, dtype: torch.dtype) -> Work:
        """Every activation is written, and read by the next layer."""
        return Work(2 * self.activations * dtype.itemsize, self.flops)

    def forward_and_backward(self, dtype: torch.dtype, weights: bool = True, inputs: bool = False) -> Work:
        """Backward reads every activation again, and writes and reads its gradient.

        weights: gradients of the parameters are wanted. inputs: of the network's input.
        """
        flops = 2 * self.flops - (0 if inputs else self.first_flops) + (self.flops if weights else 0)
        return Work(5 * self.activations * dtype.itemsize, flops)

    def update(self, optimizer: str) -> Work:
        """The gradient is written, in float32, and the optimiser makes its passes."""
        gradient = sum(map(math.prod, self.parameters)) * torch.float32.itemsize
        return Work(gradient + bytes_of(optimizer, self.parameters, torch.float32))
