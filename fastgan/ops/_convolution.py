"""Convolutions without anything around them: aten's two ops, with kernels behind them where these are faster.

    convolution            x (N, C_in, H, W), weight, bias (C_out,) or None -> z, in aten's memory format
    convolution_backward   the gradients of x, weight and bias that are asked for; of the weight, in the weight's format

Not differentiable: for callers that do their own differentiation. `plan` names what would compute a convolution.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from fastgan.ops import _library
from fastgan.ops._conv_choices import restore
from fastgan.ops._dispatch import use_kernel
from fastgan.ops._library import LIBRARY

__all__ = ["convolution", "convolution_backward", "covered", "plan", "release_workspaces", "tf32_allowed"]

Tensor = torch.Tensor
# (stride, padding, dilation, transposed, output_padding, groups), in the order of aten::convolution
Options = tuple[list[int], list[int], list[int], bool, list[int], int]

_OPTIONS = "int[] stride, int[] padding, int[] dilation, bool transposed, int[] output_padding, int groups"
LIBRARY.define(f"convolution(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}, bool tf32) -> Tensor")
LIBRARY.define(
    f"convolution_backward(Tensor grad, Tensor x, Tensor weight, {_OPTIONS}, bool need_x, bool need_weight, "
    "bool need_bias, bool tf32) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)"
)


@torch.library.register_fake("fastgan::convolution", lib=LIBRARY)
def _(x, weight, bias, *options):
    *geometry, _tf32 = options
    return torch.ops.aten.convolution(x, weight, bias, *geometry)


@torch.library.register_fake("fastgan::convolution_backward", lib=LIBRARY)
def _(
    grad, x, weight, stride, padding, dilation, transposed, output_padding, groups, need_x, need_weight, need_bias, tf32
):
    options = (stride, padding, dilation, transposed, output_padding, groups)
    grad_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *options, (need_x, False, False))[0]
    return (
        grad_x if need_x else x.new_empty(0),
        torch.empty_like(weight) if need_weight else x.new_empty(0),
        x.new_empty(grad.shape[1] if need_bias else 0),
    )


_PLANNED_DTYPES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float64: "float64",
}


@lru_cache(maxsize=4096)
def _planned(x, weight, options, dtype: str, threads: int, _capability: str) -> tuple[str, str, str]:
    return _library.C.convolution_plan(x, weight, *options, dtype, threads)


def plan(x: Tensor, weight: Tensor, *options) -> tuple[str, str, str]:
    """What computes (output, gradient of x, gradient of weight) on the CPU: the cost model of csrc/cpu/conv_plan.cpp.

    x and weight: four dimensions. options: those of aten::convolution, from stride to groups. Each of the three is
    "aten", "winograd", "thin" or "matmul"; all are "aten" where the extension is missing.
    """
    if not _library.LOADED or x.device.type != "cpu" or x.dtype not in _PLANNED_DTYPES:
        return ("aten", "aten", "aten")
    frozen = tuple(tuple(o) if isinstance(o, list) else o for o in options)
    threads, capability = torch.get_num_threads(), _library.C.cpu_capability()
    return _planned(tuple(x.shape), tuple(weight.shape), frozen, _PLANNED_DTYPES[x.dtype], threads, capability)


def covered(weight: Tensor, *options) -> bool:
    """Whether `plan` may say anything but "aten" for a weight of this shape, whatever x is."""
    return _library.LOADED and _library.C.convolution_covered(tuple(weight.shape), *options)


def tf32_allowed(x: Tensor) -> bool:
    """Whether torch lets a convolution of ``x`` round float32 operands to TF32; read where the op is called.

    Its two families of flags exclude each other: the older one is asked where the newer one, which wins, says nothing.
    """
    return x.dtype == torch.float32 and x.device.type == "cuda" and _tf32_flags()


def _tf32_flags() -> bool:
    precision = torch.backends.cudnn.conv.fp32_precision
    return precision == "tf32" if precision != "none" else torch.backends.cudnn.allow_tf32


_tf32_flags._dynamo_marked_constant = True  # as in _dispatch.py


def _pairs(options: tuple) -> tuple:
    """Lists of one value, which aten takes for both axes, written out."""
    return tuple(o * 2 if isinstance(o, list) and len(o) == 1 else o for o in options)


def _by_kernel(op: str, tensors: tuple, options: tuple) -> bool:
    x, weight = tensors[-2:]
    if x.dim() != 4 or weight.dim() != 4:  # one-dimensional and volumetric convolutions are aten's
        return False
    cuda = x.device.type == "cuda"  # where a trial chooses, not a plan
    worthwhile = cuda or set(plan(x, weight, *options)) != {"aten"}
    taken = use_kernel(op, *tensors, gap="the batch is empty" if x.numel() == 0 else None, worthwhile=worthwhile)
    if taken and cuda and not torch.compiler.is_compiling():
        restore(x.device.index)
    return taken


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *options) -> Tensor:
    """aten::convolution of x (N, C, *) by the fastest implementation; options from stride to groups, as there."""
    if x.dim() == 4:
        options = _pairs(options)
    if _by_kernel("convolution", (x, weight), options):
        return torch.ops.fastgan.convolution(x, weight, bias, *options, tf32_allowed(x))
    return torch.ops.aten.convolution(x, weight, bias, *options)


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *options) -> tuple[Tensor | None, ...]:
    """aten::convolution_backward; the last of the options is its output mask. What is not asked for is None."""
    *options, mask = _pairs(options[:-1]) + options[-1:] if x.dim() == 4 else options
    if _by_kernel("convolution_backward", (grad, x, weight), tuple(options)):
        grads = torch.ops.fastgan.convolution_backward(grad, x, weight, *options, *mask, tf32_allowed(x))
    else:
        bias_size = [grad.shape[1]] if mask[2] else None
        grads = torch.ops.aten.convolution_backward(grad, x, weight, bias_size, *options, mask)
        if mask[1] and grads[1].stride() != weight.stride():
            grads = grads[0], torch.empty_like(weight).copy_(grads[1]), grads[2]
    return tuple(g if needed else None for g, needed in zip(grads, mask, strict=True))


def release_workspaces() -> int:
    """Give the memory that CPU kernels keep between calls, 512 MB at most, back to the system; bytes freed.

    It is what their scratch memory and the tensors they returned, now gone, have used.
    """
    return _library.C.release_workspaces() if _library.LOADED else 0
