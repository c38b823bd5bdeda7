"""One call of a fused convolution as data, and the same call written with torch.nn modules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

import fastgan

HALF = (torch.bfloat16, torch.float16)
NAMES = ("x", "weight", "bias", "gamma", "beta")  # what is differentiable, in the op's order


@dataclass(frozen=True)
class Case:
    transposed: bool = False
    n: int = 3
    c_in: int = 4
    c_out: int = 6
    size: tuple[int, int] = (6, 5)
    kernel: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 1
    output_padding: int | tuple[int, int] = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    bias: bool = False
    norm: bool = True
    affine: bool = True
    training: bool = True
    activation: str = "leaky_relu"
    dtype: torch.dtype = torch.float32
    half_affine: bool = False  # gamma, beta and running statistics in the half dtype too
    layout: str = "contiguous"

    @property
    def op(self):
        return fastgan.ops.conv_transpose2d_bn_act if self.transposed else fastgan.ops.conv2d_bn_act

    def options(self) -> dict[str, object]:
        names = ["stride", "padding", "dilation", "groups", "norm", "training", "activation"]
        names += ["output_padding"] if self.transposed else []
        return {name: getattr(self, name) for name in names}

    def inputs(self, seed: int = 0) -> dict[str, torch.Tensor]:
        """x, weight and whatever else the case has; leaves that require grad where the op is differentiable in them."""
        g = torch.Generator().manual_seed(seed)
        kernel = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        channels = (self.c_in, self.c_out) if self.transposed else (self.c_out, self.c_in)
        vectors = self.dtype if self.half_affine or self.dtype not in HALF else torch.float32
        fan_in = self.c_in // self.groups * math.prod(kernel)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        tensors = {"x": in_layout(normal(self.n, self.c_in, *self.size).to(self.dtype) + 0.5, self.layout)}
        weight = normal(channels[0], channels[1] // self.groups, *kernel) / math.sqrt(fan_in)
        tensors["weight"] = in_layout(weight.to(self.dtype), self.layout)
        if self.bias:
            tensors["bias"] = normal(self.c_out).to(self.dtype)
        if self.norm and self.affine:
            tensors["gamma"] = (1 + 0.3 * normal(self.c_out)).to(vectors)
            tensors["beta"] = normal(self.c_out).to(vectors)
        for name in set(NAMES) & set(tensors):
            tensors[name].requires_grad_()
        if self.norm:
            tensors["running_mean"] = normal(self.c_out).to(vectors)
            tensors["running_var"] = (1 + normal(self.c_out) ** 2).to(vectors)
        return tensors

    def modules(self, tensors: dict[str, torch.Tensor], dtype: torch.dtype, eps: float = 1e-5) -> nn.Sequential:
        """The same layer as torch.nn modules of ``dtype`` (BatchNorm's in float32 beside half precision)."""
        options = dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)
        if self.transposed:
            options["output_padding"] = self.output_padding
        kind = nn.ConvTranspose2d if self.transposed else nn.Conv2d
        conv = kind(self.c_in, self.c_out, self.kernel, bias=self.bias, **options).to(dtype)
        layers: list[nn.Module] = [conv]
        with torch.no_grad():
            conv.weight.data = tensors["weight"].detach().to(dtype, copy=True)  # keeps the strides
            if self.bias:
                conv.bias.copy_(tensors["bias"])
            if self.norm:
                bn = nn.BatchNorm2d(self.c_out, eps=eps, affine=self.affine)
                bn.to(torch.float32 if dtype in HALF else dtype).train(self.training)
                if self.affine:
                    bn.weight.copy_(tensors["gamma"])
                    bn.bias.copy_(tensors["beta"])
                bn.running_mean.copy_(tensors["running_mean"])
                bn.running_var.copy_(tensors["running_var"])
                layers.append(bn)
        activations = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}
        return nn.Sequential(*layers, activations[self.activation])


def in_layout(t: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels_last":
        return t.to(memory_format=torch.channels_last)
    if layout == "view":  # every other element of a larger tensor: neither contiguous nor channels_last
        holder = t.new_zeros(t.shape[0], t.shape[1] + 1, t.shape[2], 2 * t.shape[3])
        holder[:, 1:, :, ::2] = t
        return holder[:, 1:, :, ::2]
    return t.contiguous()


def statistics_of(z: torch.Tensor, eps: float = 1e-5) -> tuple[torch.Tensor, torch.Tensor]:
    var, mean = torch.var_mean(z, (0, 2, 3), correction=0)
    return mean, torch.rsqrt(var + eps)


def module_results(case: Case, tensors: dict, dtype: torch.dtype, cotangent: torch.Tensor, factor: torch.Tensor | None):
    """y, z and the gradients by torch.nn in ``dtype``. factor: act'(u) to use in backward (and forward) instead of act.

    One factor for all sides: an activation that flips within rounding of zero is no error of the backward.
    """
    net = case.modules(tensors, dtype)
    x = tensors["x"].detach().to(dtype).requires_grad_()
    z = net[0](x)
    u = net[1](z) if case.norm else z
    y = net[-1](u)
    (u * factor.to(u.dtype) if factor is not None else y).backward(cotangent.to(y.dtype))
    grads = {"x": x.grad, "weight": net[0].weight.grad}
    if case.bias:
        grads["bias"] = net[0].bias.grad
    if case.norm and case.affine:
        grads |= {"gamma": net[1].weight.grad, "beta": net[1].bias.grad}
    return y.detach(), z.detach(), grads


def activation_factor(case: Case, y: torch.Tensor) -> torch.Tensor | None:
    """act'(u) read off y = act(u); None for tanh, which has no corner."""
    if case.activation in ("tanh", "none"):
        return None
    slope = 0.0 if case.activation == "relu" else 0.2
    return torch.full_like(y, slope, dtype=torch.float64, requires_grad=False).masked_fill_(y.detach() > 0, 1.0)
