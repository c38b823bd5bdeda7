"""Rows of conv2d_bn_act and conv_transpose2d_bn_act: one layer, plain modules against the fused op.

    forward    training mode, with the graph that backward needs
    backward   gradients of x and of every parameter
    both       the two in a row
    eval       running statistics, no gradients

PyTorch's side is nn.Sequential(conv, BatchNorm2d, activation in place), parameters and input in NCHW or channels_last;
fastgan's is the op on the same tensors, and it updates the running statistics as BatchNorm2d does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fastgan import ops
from fastgan.bench import shapes
from fastgan.bench.case import (
    COMPILED,
    EAGER,
    GRADIENT,
    OURS,
    SEED,
    Case,
    Workload,
    base_of,
    begin_step,
    compile_options,
    implementation_of,
    is_ours,
    layout_of,
    working_dtype,
)
from fastgan.bench.floor import Work, layer_work
from fastgan.bench.shapes import BATCH_SIZE, ConvLayer
from fastgan.ops._conv_bn_act import Geometry, worthwhile
from fastgan.ops._convolution import plan

__all__ = ["ConvBnActCase", "cases"]

NEGATIVE_SLOPE = 0.2
GOALS = {128: 1.3, 1024: 1.15}  # by batch: of DCGAN's layers, forward and backward in bfloat16 on a GPU
_ACTIVATIONS = {
    "none": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class ConvBnActCase(Case):
    layer: ConvLayer
    batch_size: int = BATCH_SIZE
    quick: bool = False
    suffix: str = ""  # of the name

    modes: ClassVar[tuple[str, ...]] = ("forward", "backward", "both", "eval")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)

    @property
    def op(self) -> str:
        return "conv_transpose2d_bn_act" if self.layer.transposed else "conv2d_bn_act"

    @property
    def name(self) -> str:
        return self.layer.name + self.suffix

    def cuda_goals(self, mode: str, precision: str) -> dict[str, float]:
        wanted = mode == "both" and precision == "bfloat16" and self.layer not in shapes.GP_CRITIC
        return {"strongest": GOALS[self.batch_size]} if wanted and self.batch_size in GOALS else {}

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        # a compiled forward cannot be kept and differentiated repeatedly: torch.compile donates its saved buffers
        return (*EAGER, *(COMPILED if compiled and mode != "backward" else ()), *OURS)

    def work(self, mode: str, dtype: torch.dtype) -> Work:
        return layer_work(self.layer, self.batch_size, mode, dtype)

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        layout, wide = layout_of(provider), working_dtype(dtype, upcast)
        modules, x, grad_y = self._inputs(dtype, device)
        x = x.to(wide).contiguous(memory_format=layout).requires_grad_()
        grad_y = grad_y.to(wide).contiguous(memory_format=layout)
        if upcast:
            modules = modules.double()
        modules = modules.to(memory_format=layout)
        names, leaves = zip(*modules.named_parameters(), strict=True)
        leaves = (x, *leaves)
        train, evaluate, implementation = modules, copy.deepcopy(modules).eval(), "PyTorch"
        if is_ours(provider):
            train, evaluate = _as_op(self.layer, train), _as_op(self.layer, evaluate)
            implementation = self._implementation(*leaves)
        elif base_of(provider) in COMPILED:
            options = {"fullgraph": True, **compile_options(provider, device)}
            train, evaluate = torch.compile(train, **options), torch.compile(evaluate, **options)

        def forward() -> torch.Tensor:
            begin_step(provider, device)
            return train(x)

        def both() -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(forward(), leaves, grad_y)

        graph: list[torch.Tensor] = []  # made at the first call, which warms up, then walked again and again

        def backward() -> tuple[torch.Tensor, ...]:
            if not graph:
                graph.append(forward())
            return torch.autograd.grad(graph[0], leaves, grad_y, retain_graph=True)

        @torch.no_grad()
        def in_eval_mode() -> torch.Tensor:
            return evaluate(x)

        def results() -> dict[str, torch.Tensor]:
            # copies: the next call of a module compiled for a GPU writes over what the last one returned
            found = {"y in eval mode": in_eval_mode().clone(), "y": forward().detach().clone()}
            found |= {GRADIENT + name: g for name, g in zip(("x", *names), both(), strict=True)}
            return found | {name: buffer.clone() for name, buffer in modules.named_buffers()}

        modes = {"forward": forward, "backward": backward, "both": both, "eval": in_eval_mode}

        def state() -> list[torch.Tensor]:
            return list(modules.state_dict().values())

        return Workload(modes, results, implementation, state)

    def _implementation(self, x: torch.Tensor, weight: torch.Tensor, *vectors: torch.Tensor) -> str:
        """What runs, and what computes the three products of the convolution inside where that is not ATen alone."""
        layer = self.layer
        pairs = ([layer.stride] * 2, [layer.padding] * 2, [0, 0], [1, 1])
        conv = Geometry(layer.transposed, *pairs, groups=1)
        found = implementation_of(
            self.op, x, weight, *vectors, worthwhile=worthwhile(conv, x, weight, layer.norm, layer.activation)
        )
        products = plan(x, weight, *conv.as_aten_arguments())
        if found == "reference" or set(products) == {"aten"}:
            return found
        return f"{found}: {products[0] if len(set(products)) == 1 else ', '.join(products)}"

    def _inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
        """(modules, x, grad_y): weights and images as in a network under training, rounded to ``dtype``."""
        layer, n = self.layer, self.batch_size
        generator = torch.Generator().manual_seed(SEED)

        def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
            return torch.empty(shape).normal_(mean, std, generator=generator)

        conv_class = nn.ConvTranspose2d if layer.transposed else nn.Conv2d
        conv = conv_class(layer.c_in, layer.c_out, layer.kernel_size, layer.stride, layer.padding, bias=layer.bias)
        modules = [conv.to(dtype)]
        with torch.no_grad():
            conv.weight.copy_(normal(*conv.weight.shape, std=0.02))
            if layer.bias:
                conv.bias.copy_(normal(layer.c_out, std=0.02))
            if layer.norm:  # float32 beside half-precision images, as autocast has it
                bn = nn.BatchNorm2d(layer.c_out)
                bn.weight.copy_(normal(layer.c_out, mean=1.0, std=0.02))
                bn.bias.copy_(normal(layer.c_out, std=0.1))
                bn.running_mean.copy_(normal(layer.c_out, std=0.1))
                bn.running_var.copy_(normal(layer.c_out).square() + 0.5)
                modules.append(bn)
        modules.append(_ACTIVATIONS[layer.activation]())
        x = normal(n, layer.c_in, layer.size, layer.size)
        grad_y = normal(n, layer.c_out, layer.out_size, layer.out_size)
        return nn.Sequential(*modules).to(device), x.to(device, dtype), grad_y.to(device, dtype)


def _as_op(layer: ConvLayer, modules: nn.Sequential) -> Callable[[torch.Tensor], torch.Tensor]:
    """The modules' forward as one call of fastgan's op, on the modules' own parameters and statistics."""
    op = ops.conv_transpose2d_bn_act if layer.transposed else ops.conv2d_bn_act
    conv, bn = modules[0], modules[1] if layer.norm else None
    options = {
        "stride": layer.stride,
        "padding": layer.padding,
        "activation": layer.activation,
        "negative_slope": NEGATIVE_SLOPE,
    }
    if bn is None:
        return lambda x: op(x, conv.weight, conv.bias, norm=False, **options).y
    arguments = (conv.weight, conv.bias, bn.weight, bn.bias, bn.running_mean, bn.running_var)

    def run(x: torch.Tensor) -> torch.Tensor:
        y, _, mean, invstd = op(x, *arguments, training=bn.training, eps=bn.eps, **options)
        if bn.training:
            bn.num_batches_tracked.add_(1)
            count = y.numel() // y.shape[1]
            ops.update_running_stats_(bn.running_mean, bn.running_var, mean, invstd, count, bn.momentum, bn.eps)
        return y

    return run


def cases(batch_size: int = BATCH_SIZE, suffix: str = "") -> list[ConvBnActCase]:
    """Every layer of DCGAN at 64 px, and the critic's."""
    quick = (shapes.GENERATOR[2], shapes.DISCRIMINATOR[2])
    layers = (*shapes.GENERATOR, *shapes.DISCRIMINATOR, *shapes.GP_CRITIC)
    return [ConvBnActCase(layer, batch_size, layer in quick, suffix) for layer in layers]
