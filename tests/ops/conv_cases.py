"""One call of a fused convolution as data, the same call written with torch.nn modules, and a choice of its kernel."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import fastgan
from fastgan.ops import _convolution, _library, use

HALF = (torch.bfloat16, torch.float16)
NAMES = ("x", "weight", "bias", "gamma", "beta")  # what is differentiable, in the op's order
CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
DIRECTIONS = pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])

# Kernel, stride, padding. The large side is stride times the small one, by output_padding in a transposed convolution.
GEOMETRIES = {"k4 s2": (4, 2, 1), "k3 s1": (3, 1, 1), "k3 s2": (3, 2, 1), "k5 s2": (5, 2, 2)}


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
    weight_layout: str | None = None  # layout, where None

    @property
    def op(self):
        return fastgan.ops.conv_transpose2d_bn_act if self.transposed else fastgan.ops.conv2d_bn_act

    def options(self) -> dict[str, object]:
        names = ["stride", "padding", "dilation", "groups", "norm", "training", "activation"]
        names += ["output_padding"] if self.transposed else []
        return {name: getattr(self, name) for name in names}

    def aten_options(self) -> tuple:
        """Those of aten::convolution, from stride to groups."""
        stride, padding, dilation, output_padding = (
            [v, v] if isinstance(v, int) else list(v)
            for v in (self.stride, self.padding, self.dilation, self.output_padding)
        )
        return stride, padding, dilation, self.transposed, output_padding, self.groups

    def inputs(self, seed: int = 0) -> dict[str, torch.Tensor]:
        """x, weight and whatever else the case has; leaves that require grad where the op is differentiable in them."""
        g = torch.Generator("cpu").manual_seed(seed)  # the same values on every device
        kernel = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        channels = (self.c_in, self.c_out) if self.transposed else (self.c_out, self.c_in)
        vectors = self.dtype if self.half_affine or self.dtype not in HALF else torch.float32
        fan_in = self.c_in // self.groups * math.prod(kernel)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64, device="cpu").to(torch.get_default_device())

        tensors = {"x": in_layout(normal(self.n, self.c_in, *self.size).to(self.dtype) + 0.5, self.layout)}
        weight = normal(channels[0], channels[1] // self.groups, *kernel) / math.sqrt(fan_in)
        tensors["weight"] = in_layout(weight.to(self.dtype), self.weight_layout or self.layout)
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


def scaling(
    geometry: str, transposed: bool, n: int, small: int, large: int, size: tuple[int, int], **options: object
) -> Case:
    """One of GEOMETRIES. small, large: channels of the small and the large side; size: of the small one."""
    kernel, stride, padding = GEOMETRIES[geometry]
    height, width = size
    c_in, c_out, size = (small, large, size) if transposed else (large, small, (stride * height, stride * width))
    output_padding = stride + 2 * padding - kernel if transposed else 0
    around = dict(kernel=kernel, stride=stride, padding=padding, output_padding=output_padding)
    return Case(transposed, n, c_in, c_out, size, **(around | options))


def halving(transposed: bool, n: int, small: int, large: int, size: tuple[int, int], **options: object) -> Case:
    """Kernel 4, stride 2, padding 1."""
    return scaling("k4 s2", transposed, n, small, large, size, **options)


@contextlib.contextmanager
def planned(kernel: str, capability: str | None = None) -> Iterator[None]:
    """Ops run by their kernels here, and convolutions by ``kernel`` wherever it covers them ("auto": by the plan)."""
    before = _library.C.cpu_capability()
    if capability is not None and CAPABILITIES.index(capability) > CAPABILITIES.index(before):
        pytest.skip(f"this process takes at most {before}")
    _library.C.set_cpu_capability(capability or before)
    set_plan(kernel)
    try:
        with use("kernel"):
            yield
    finally:
        set_plan("auto")
        _library.C.set_cpu_capability(before)


def set_plan(kernel: str) -> None:
    """`planned` without an end, and without asking for kernels; nothing where no extension is built."""
    if not _library.LOADED:
        return
    _library.C.set_convolution_plan(kernel)
    _convolution._planned.cache_clear()  # it holds what was planned before


def plan_of(case: Case) -> tuple[str, str, str]:
    """What computes the output, the gradient of x and the gradient of weight."""
    tensors = case.inputs()
    return _convolution.plan(tensors["x"], tensors["weight"], *case.aten_options())


def cotangent_of(case: Case, layout: str = "contiguous") -> torch.Tensor:
    """A gradient of the op's output."""
    tensors = case.inputs()
    shape = torch.ops.aten.convolution(
        tensors["x"].detach().to("meta"), tensors["weight"].detach().to("meta"), None, *case.aten_options()
    ).shape
    generator = torch.Generator("cpu").manual_seed(1)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return in_layout(drawn.to(tensors["x"].device, case.dtype), layout)


def results(case: Case, tensors: dict[str, torch.Tensor], cotangent: torch.Tensor):
    """What the op returns and the gradients by name, of all tensors that require grad."""
    result = case.op(**tensors, **case.options())
    wanted = {name: t for name, t in tensors.items() if t.requires_grad}
    grads = torch.autograd.grad(result.y, list(wanted.values()), cotangent)
    return result, dict(zip(wanted, grads, strict=True))


def all_results(case: Case, tensors: dict | None = None, cotangent: torch.Tensor | None = None) -> list[torch.Tensor]:
    """What the op returns and the gradients, in one list: for comparisons bit by bit."""
    tensors = case.inputs() if tensors is None else tensors
    result, grads = results(case, tensors, cotangent_of(case) if cotangent is None else cotangent)
    return [*(t.detach() for t in result), *grads.values()]


def aten_strides(case: Case, tensors: dict, cotangent: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Strides that ATen gives the output and the gradient of x; the weight's gradient lies as a dense weight does."""
    x, weight = tensors["x"].detach(), tensors["weight"].detach()
    y = torch.ops.aten.convolution(x, weight, None, *case.aten_options())
    mask = [True, False, False]
    grad_x = torch.ops.aten.convolution_backward(cotangent, x, weight, None, *case.aten_options(), mask)[0]
    return {"y": y.stride(), "x": grad_x.stride(), "weight": torch.empty_like(weight).stride()}


def significant(shape: torch.Size, strides: tuple[int, ...]) -> list[int]:
    """Of the dimensions longer than one: the others' strides lead nowhere."""
    return [stride for length, stride in zip(shape, strides, strict=True) if length > 1]


def check_planned(
    case: Case,
    kernel: str,
    close: Callable[..., None],
    capability: str | None = None,
    cotangent_layout: str = "contiguous",
) -> None:
    """A case whose three products run by ``kernel``: values and gradients against float64, strides against ATen's.

    close: as assert_within_oracle, (actual, oracle, baseline, name, scale).
    """
    tensors, cotangent = case.inputs(), cotangent_of(case, cotangent_layout)
    with planned(kernel, capability):
        assert plan_of(case) == (kernel,) * 3, f"{kernel} does not cover {case}"
        check_values(case, tensors, cotangent, close)


def check_values(case: Case, tensors: dict, cotangent: torch.Tensor, close: Callable[..., None]) -> None:
    """Values, gradients, strides and dtypes of the op as it is now; as in check_planned."""
    result, grads = results(case, tensors, cotangent)
    factor = activation_factor(case, result.y)
    y, _, exact = module_results(case, tensors, torch.float64, cotangent, factor)
    y_baseline, _, rounded = module_results(case, tensors, case.dtype, cotangent, factor)
    close(result.y, y, y_baseline, "y")
    assert set(grads) == set(exact)
    # A sum over the batch has terms of the size of dY: their rounding adds up to an ulp of its L2 norm.
    size = cotangent.double().norm().item()
    for name, grad in grads.items():
        if name == "bias" and case.norm and case.training:
            assert not grad.any(), "a bias ahead of batch statistics"
            continue
        close(grad, exact[name], rounded[name], f"gradient of {name}", None if name in ("x", "weight") else size)
    strides = aten_strides(case, tensors, cotangent)
    for name, t in {"y": result.y, "x": grads["x"], "weight": grads["weight"]}.items():
        wanted = significant(t.shape, strides[name])
        assert significant(t.shape, t.stride()) == wanted, (
            f"{name} has strides {t.stride()}, ATen gives {strides[name]}"
        )
    assert {t.dtype for name, t in grads.items() if name not in ("gamma", "beta")} | {result.y.dtype} == {case.dtype}


def aten_convolutions(case: Case) -> set[str]:
    """ATen's convolutions that a forward and a backward pass call."""
    with profile(activities=[ProfilerActivity.CPU]) as run:
        case.op(**case.inputs(), **case.options()).y.sum().backward()
    return {event.name for event in run.events() if event.name.startswith("aten::") and "conv" in event.name}


def check_strides(case: Case, kernel: str) -> None:
    """By ``kernel``, the output and both gradients lie in memory as aten's do."""
    tensors, cotangent = case.inputs(), cotangent_of(case)
    with planned(kernel):
        result, grads = results(case, tensors, cotangent)
    found = {"y": result.y.stride()} | {name: grads[name].stride() for name in ("x", "weight")}
    assert found == aten_strides(case, tensors, cotangent), case
