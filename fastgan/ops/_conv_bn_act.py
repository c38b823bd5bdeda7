"""Convolution (or transposed convolution), BatchNorm and activation as one op: what both directions share.

    1. z      = conv(x, weight) + bias
    2. mean   = mean of z over (N, H, W);  var = its biased variance           (norm, training)
       mean   = running_mean;              var = running_var                   (norm, not training)
    3. invstd = 1 / sqrt(var + eps);  u = gamma * (z - mean) * invstd + beta   (norm; otherwise u = z)
    4. y      = act(u)

Returned are (y, z, mean, invstd). Only y is differentiable, to any order: the first derivative is the op
``<name>_backward``; that op's derivative is taken of `_backward_formula`, plain differentiable aten. (The reference is
as good as torch's own batch_norm, whose third derivative over batch statistics is wrong in torch 2.13.) What is a shape
here: x (N, C_in, H, W), weight (C_out, C_in / groups, kh, kw) or transposed (C_in, C_out / groups, kh, kw), bias,
gamma, beta, running_mean, running_var, mean, invstd (C_out,), y and z (N, C_out, H', W').

z is kept for backward and empty, shape (0,), where nothing needs it; y alone could not give it back. y is kept too
where backward reads it: for tanh, and in place of z for an activation without a norm. Without either, the op is linear
in x and in weight, and backward takes an empty y.
A bias in front of a BatchNorm over batch statistics cannot change y: its gradient is exactly zero.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

from fastgan.ops._conv_choices import restore
from fastgan.ops._convolution import plan, tf32_allowed
from fastgan.ops._dispatch import autocasts, use_kernel
from fastgan.ops._library import LIBRARY
from fastgan.ops.bn_act import (
    activation_backward,
    activation_gap,
    apply_activation_,
    bn_stats_reference,
    check_activation,
    normalise,
    over_channels,
    reduced_dims,
    statistics_dtype,
)

__all__ = ["ConvBnAct", "Geometry", "conv_bn_act", "define", "takes_kernel", "worthwhile"]

Tensor = torch.Tensor
# Elements of z from which a CPU kernel is worth its fixed cost (see `bench`); below, `auto` takes the reference.
SMALL = 1 << 20
# Elements of x and weight together from which a kernel of our own for the convolution alone is worth its fixed cost.
SMALL_ALONE = 1 << 16
_EAGER: dict = {}  # name of an op -> its eager, differentiable form
IntPair = int | tuple[int, int] | list[int]


class ConvBnAct(NamedTuple):
    """What the fused convolutions return."""

    y: Tensor  # (N, C_out, H', W') activated output; the one differentiable member
    z: Tensor  # like y, the convolution's output before normalisation; (0,) where backward does not need it
    mean: Tensor  # (C_out,) float32 / float64; (0,) without norm
    invstd: Tensor  # (C_out,) 1 / sqrt(var + eps); (0,) without norm


class Geometry(NamedTuple):
    """The integers of a convolution. output_padding is (0, 0) where transposed is False."""

    transposed: bool
    stride: list[int]
    padding: list[int]
    output_padding: list[int]
    dilation: list[int]
    groups: int

    @property
    def name(self) -> str:
        return "conv_transpose2d_bn_act" if self.transposed else "conv2d_bn_act"

    def as_op_arguments(self) -> list:
        """In the order of the op's schema."""
        spatial = [self.stride, self.padding, self.output_padding, self.dilation]
        return [*(spatial if self.transposed else [s for i, s in enumerate(spatial) if i != 2]), self.groups]

    def as_aten_arguments(self) -> list:
        """In the order of aten::convolution, from stride on."""
        return [self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups]

    def out_channels(self, weight: Tensor) -> int:
        return weight.shape[1] * self.groups if self.transposed else weight.shape[0]

    def output_size(self, x: Tensor, weight: Tensor) -> list[int]:
        """[H', W'] of z."""
        size = []
        for axis, (stride, padding, more, dilation) in enumerate(zip(*self[1:5], strict=True)):
            length, reach = x.shape[axis + 2], dilation * (weight.shape[axis + 2] - 1)
            if self.transposed:
                size.append((length - 1) * stride - 2 * padding + reach + more + 1)
            else:
                size.append((length + 2 * padding - reach - 1) // stride + 1)
        return size

    def out_elements(self, x: Tensor, weight: Tensor) -> int:
        """Number of elements of z."""
        height, width = self.output_size(x, weight)
        return x.shape[0] * self.out_channels(weight) * height * width

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.transposed:
            return torch.nn.functional.conv_transpose2d(
                x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
            )
        return torch.nn.functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def backward(self, grad_z: Tensor, x: Tensor, weight: Tensor, need: tuple[bool, bool, bool]):
        """(grad_x, grad_weight, grad_bias), None where not needed; differentiable."""
        return torch.ops.aten.convolution_backward(
            grad_z, x, weight, [self.out_channels(weight)], self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups, need,
        )  # fmt: skip


def _geometry(transposed: bool, arguments: list) -> Geometry:
    """The inverse of Geometry.as_op_arguments."""
    if transposed:
        return Geometry(True, *arguments)
    stride, padding, dilation, groups = arguments
    return Geometry(False, stride, padding, [0, 0], dilation, groups)


def _reference(x, weight, bias, gamma, beta, running_mean, running_var, conv, norm, training, keep_z, eps, act, slope):
    z = conv.convolve(x, weight, bias)  # 1.
    if not norm:
        nothing = x.new_empty(0, dtype=statistics_dtype(x))
        return ConvBnAct(apply_activation_(z, act, slope), x.new_empty(0), nothing, nothing)
    stats = statistics_dtype(x)  # of all vectors: in half precision torch would round the statistics to theirs
    if gamma is None:
        gamma, beta = z.new_ones(z.shape[1], dtype=stats), z.new_zeros(z.shape[1], dtype=stats)
    gamma, beta = gamma.to(stats), beta.to(stats)
    if not training:
        mean, invstd = running_mean.to(stats), torch.rsqrt(running_var.to(stats) + eps)
        u = torch.nn.functional.batch_norm(z, mean, running_var.to(stats), gamma, beta, False, 0.0, eps)
    elif z.numel():  # 2. and 3.: torch's own, which returns its statistics
        u, mean, invstd = torch.native_batch_norm(z, gamma, beta, None, None, True, 0.0, eps)
    else:
        mean, invstd = z.new_zeros(z.shape[1], dtype=stats), z.new_zeros(z.shape[1], dtype=stats)
        u = normalise(z, mean, invstd, gamma, beta)[1].to(z.dtype)
    kept = z.detach() if keep_z else x.new_empty(0)
    return ConvBnAct(apply_activation_(u, act, slope), kept, mean.detach(), invstd.detach())  # 4.


def _backward_formula(grad_y, x, weight, bias, gamma, beta, mean, invstd, y, conv, norm, training, act, slope, eps):
    """(grad_x, grad_weight, grad_bias, grad_gamma, grad_beta) as differentiable functions of all tensors.

    z is computed again from x and weight wherever the derivative bends with it, so that derivatives flow through it.
    """
    stats = statistics_dtype(x)
    curved = norm or act == "tanh"
    u = z = conv.convolve(x, weight, bias).to(stats) if curved else y  # without norm, y has the sign of z
    if norm:
        if training:
            mean, var = bn_stats_reference(z)
            invstd = torch.rsqrt(var + eps)
        xhat, u = normalise(z, mean, invstd, gamma, beta)
    g = activation_backward(grad_y.to(stats), u, act, slope)
    grad_gamma = grad_beta = None
    if norm:
        dims, count = reduced_dims(z), z.numel() // z.shape[1]
        grad_beta, grad_gamma = g.sum(dims), (g * xhat).sum(dims)
        scale = invstd if gamma is None else invstd * gamma.to(stats)
        if training:
            g = g - over_channels(grad_beta / count, z) - xhat * over_channels(grad_gamma / count, z)
        g = g * over_channels(scale, z)
    grad_z = g.to(x.dtype)
    grad_x, grad_weight, _ = conv.backward(grad_z, x, weight, (True, True, False))
    grad_bias = None
    if bias is not None:
        grad_bias = torch.zeros_like(bias) if norm and training else g.sum(reduced_dims(g)).to(bias.dtype)
    if gamma is not None:
        grad_gamma, grad_beta = grad_gamma.to(gamma.dtype), grad_beta.to(gamma.dtype)
    return grad_x, grad_weight, grad_bias, grad_gamma, grad_beta


def define(name: str, transposed: bool) -> None:
    """Schema, fake and autograd of ``name`` and ``name_backward``; C++ registers the implementations."""
    integers = "int[] stride, int[] padding, " + ("int[] output_padding, " if transposed else "")
    integers += "int[] dilation, int groups"
    n_integers = 5 if transposed else 4
    LIBRARY.define(
        f"{name}(Tensor x, Tensor weight, Tensor? bias, Tensor? gamma, Tensor? beta, Tensor? running_mean, "
        f"Tensor? running_var, {integers}, bool norm, bool training, bool keep_z, float eps, str activation, "
        "float negative_slope, bool tf32) -> (Tensor y, Tensor z, Tensor mean, Tensor invstd)"
    )
    LIBRARY.define(
        f"{name}_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, Tensor? gamma, Tensor? beta, Tensor y, "
        f"Tensor z, Tensor mean, Tensor invstd, {integers}, bool norm, bool training, str activation, "
        "float negative_slope, bool need_x, bool need_weight, bool need_bias, bool need_affine, float eps, "
        "bool tf32) -> "
        "(Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_gamma, Tensor grad_beta)"
    )
    forward_op = getattr(torch.ops.fastgan, name).default
    backward_op = getattr(torch.ops.fastgan, f"{name}_backward").default

    def split(arguments: tuple) -> tuple[Geometry, tuple]:
        return _geometry(transposed, arguments[:n_integers]), arguments[n_integers:]

    @torch.library.register_fake(f"fastgan::{name}", lib=LIBRARY)
    def _(x, weight, bias, gamma, beta, running_mean, running_var, *rest):
        conv, (norm, _training, keep_z, *_) = split(rest)
        y = conv.convolve(x, weight, bias)
        stats = x.new_empty(y.shape[1] if norm else 0, dtype=statistics_dtype(x))
        return y, torch.empty_like(y) if norm and keep_z else x.new_empty(0), stats, torch.empty_like(stats)

    @torch.library.register_fake(f"fastgan::{name}_backward", lib=LIBRARY)
    def _(grad_y, x, weight, bias, gamma, beta, y, z, mean, invstd, *rest):
        conv, (norm, _training, _act, _slope, need_x, need_weight, need_bias, need_affine, *_) = split(rest)
        grad_x = conv.backward(grad_y, x, weight, (need_x, False, False))[0]
        affine = x.new_empty(grad_y.shape[1], dtype=gamma.dtype) if need_affine else x.new_empty(0)
        return (  # the stand-ins for what is not asked for may not be one tensor: outputs do not share memory
            grad_x if need_x else x.new_empty(0),
            torch.empty_like(weight) if need_weight else x.new_empty(0),
            torch.empty_like(bias) if need_bias else x.new_empty(0),
            affine,
            torch.empty_like(affine),
        )

    def forward_context(ctx, inputs, output):
        x, weight, bias, gamma, beta, _, _, *rest = inputs
        y, z, mean, invstd = output
        conv, (norm, training, _keep_z, eps, act, slope, tf32) = split(tuple(rest))
        ctx.mark_non_differentiable(z, mean, invstd)
        ctx.set_materialize_grads(False)
        reads_y = act == "tanh" or not (norm or act == "none")
        y_kept = y if reads_y else z  # what is not read need not be kept alive; z is kept in any case
        ctx.save_for_backward(x, weight, bias, gamma, beta, y_kept, z, mean, invstd)
        ctx.conv, ctx.norm, ctx.training, ctx.act, ctx.slope, ctx.eps = conv, norm, training, act, slope, eps
        ctx.tf32 = tf32

    def forward_derivative(ctx, grad_y, *_, backward=backward_op):
        nones = [None] * (2 + n_integers + 7)
        if grad_y is None:
            return None, None, None, None, None, *nones
        saved = ctx.saved_tensors  # once: recomputation by torch.utils.checkpoint allows no second look
        needed = _asked_for(ctx, saved[:5])
        need_x, need_weight, need_bias, need_gamma, need_beta = needed
        need_affine = need_gamma or need_beta
        grads = backward(
            grad_y, *saved, *ctx.conv.as_op_arguments(), ctx.norm, ctx.training, ctx.act, ctx.slope,
            need_x, need_weight, need_bias, need_affine, ctx.eps, ctx.tf32,
        )  # fmt: skip
        return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), *nones

    def backward_context(ctx, inputs, output):
        grad_y, x, weight, bias, gamma, beta, y, _z, mean, invstd, *rest = inputs
        conv, (norm, training, act, slope, *needed, eps, _tf32) = split(tuple(rest))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_y, x, weight, bias, gamma, beta, y, mean, invstd)
        ctx.options = (conv, norm, training, act, slope, eps)
        need_x, need_weight, need_bias, need_affine = needed
        ctx.needed = (need_x, need_weight, need_bias, need_affine, need_affine)

    def backward_derivative(ctx, *cotangents):
        *variables, y, mean, invstd = ctx.saved_tensors
        grads = _vjp(
            lambda *v: _backward_formula(*v, mean, invstd, y, *ctx.options),
            variables,
            ctx.needs_input_grad[: len(variables)],
            [c if need else None for c, need in zip(cotangents, ctx.needed, strict=True)],
        )
        return *grads, *[None] * (len(ctx.needs_input_grad) - len(variables))

    class Eager(torch.autograd.Function):
        """The same derivative without torch.library's wrapper, which spends 0.2 ms of Python on every call."""

        @staticmethod
        def forward(ctx, *inputs):
            output = _below_autograd(forward_op, *inputs)
            forward_context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            if torch.is_grad_enabled() or torch.compiler.is_compiling():
                return forward_derivative(ctx, *grads)
            return forward_derivative(ctx, *grads, backward=partial(_below_autograd, backward_op))

    _EAGER[name] = Eager.apply
    torch.library.register_autograd(f"fastgan::{name}", forward_derivative, setup_context=forward_context, lib=LIBRARY)
    torch.library.register_autograd(
        f"fastgan::{name}_backward", backward_derivative, setup_context=backward_context, lib=LIBRARY
    )


def _below_autograd(op, *arguments):
    """A call that nobody differentiates, past the Python that torch.library runs for autograd: tens of microseconds."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def _asked_for(ctx, inputs: tuple[Tensor | None, ...]) -> list[bool]:
    """Which of the op's first inputs this backward pass wants the gradients of.

    ctx.needs_input_grad names those that require one, also where torch.autograd.grad(y, x) or backward(inputs=...) is
    after fewer. As long as that is so, the engine is asked whether it goes on to the node behind each.
    """
    needed = ctx.needs_input_grad[: len(inputs)]
    if torch.compiler.is_compiling():
        return list(needed)
    nodes = (node for node, _ in ctx.next_functions)  # of the inputs that are tensors, None where none is required
    nodes = [None if t is None else next(nodes) for t in inputs]
    return [need and _is_reached(node) for need, node in zip(needed, nodes, strict=True)]


def _is_reached(node) -> bool:
    """Whether the backward pass under way goes on to this node of the graph; True where the engine does not tell."""
    try:
        return torch._C._will_engine_execute_node(node)
    # of a leaf that torch.autograd.grad asks for, and outside of a backward pass; a torch that has it no longer
    except (RuntimeError, AttributeError):
        return True


def _vjp(function, inputs, needs, cotangents):
    """Gradients of ``function`` at ``inputs`` (None where not needed), differentiable again where grad mode is on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: gradients end here and do not run on into the graph that made the inputs.
        variables = [
            t if t is None else (t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_(need))
            for t, need in zip(inputs, needs, strict=True)
        ]
        outputs = function(*variables)
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None and o is not None]
    pairs = [(o, c) for o, c in pairs if o.requires_grad]
    wanted = [v for v, need in zip(variables, needs, strict=True) if need]
    if not pairs or not wanted:
        return [None] * len(inputs)
    outputs, cotangents = zip(*pairs, strict=True)
    grads = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=again, allow_unused=True))
    return [next(grads) if need else None for need in needs]


def conv_bn_act(
    conv: Geometry,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: bool,
    training: bool,
    eps: float,
    activation: str,
    negative_slope: float,
) -> ConvBnAct:
    """Cast under autocast, check, choose, run: the body of both public functions."""
    _check_types(conv.name, x, weight, bias, gamma, beta, running_mean, running_var)
    x, weight, bias = _autocast(x, weight, bias)
    _check(conv, x, weight, bias, gamma, beta, running_mean, running_var, norm, training, activation)
    differentiated = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias, gamma, beta)
    )
    keep_z = norm and differentiated
    options = (norm, training, keep_z, eps, activation, negative_slope)
    tensors = (x, weight, bias, gamma, beta, running_mean, running_var)
    if not takes_kernel(conv, *tensors, norm, activation, negative_slope):
        return _reference(*tensors, conv, *options)
    if x.device.type == "cuda" and not torch.compiler.is_compiling():
        restore(x.device.index)
    run = _EAGER[conv.name] if differentiated and not torch.compiler.is_compiling() else _op(conv.name)
    return ConvBnAct(*run(*tensors, *conv.as_op_arguments(), *options, tf32_allowed(x)))


def takes_kernel(
    conv, x, weight, bias, gamma, beta, running_mean, running_var, norm: bool, activation: str, negative_slope: float
) -> bool:
    """Whether a call runs by kernel. Raises NotImplementedError where "kernel" is chosen and none covers it."""
    gap = "the batch is empty" if x.numel() == 0 else activation_gap(activation, negative_slope)
    tensors = (x, weight, bias, gamma, beta, running_mean, running_var)
    return use_kernel(conv.name, *tensors, gap=gap, worthwhile=worthwhile(conv, x, weight, norm, activation))


def worthwhile(conv: Geometry, x: Tensor, weight: Tensor, norm: bool, activation: str) -> bool:
    """Whether a kernel that covers the call gains anything, so that `auto` takes it."""
    alone = not norm and activation == "none"
    if x.device.type != "cpu" or (alone and x.numel() + weight.numel() < SMALL_ALONE):
        return not alone
    if norm and conv.out_elements(x, weight) >= SMALL:
        return True
    # Below, and without a norm, ATen's convolution leaves no pass to save: only kernels of our own gain anything, and
    # one of three products does not gain what the call costs.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not traced and plan(x, weight, *conv.as_aten_arguments()).count("aten") < (2 if norm else 3)


def _op(name: str):
    return getattr(torch.ops.fastgan, name).default


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None):
    """What autocast does to a convolution; BatchNorm's parameters and statistics stay as they are."""
    device = x.device.type
    if not autocasts(device):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(t: Tensor | None) -> Tensor | None:
        eligible = t is not None and t.is_floating_point() and t.dtype != torch.float64
        return t.to(dtype) if eligible else t

    return cast(x), cast(weight), cast(bias)


def _check_types(op: str, x, weight, *optional) -> None:
    names = ("x", "weight", "bias", "gamma", "beta", "running_mean", "running_var")
    for name, value in zip(names, (x, weight, *optional), strict=True):
        if not isinstance(value, Tensor) and (value is not None or name in ("x", "weight")):
            raise TypeError(f"{op}: {name} is {type(value).__name__}; it takes a tensor")


def _check(conv, x, weight, bias, gamma, beta, running_mean, running_var, norm, training, activation) -> None:
    op = conv.name
    check_activation(op, activation)
    if x.dim() != 4:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}; it takes (N, C, H, W)")
    if weight.dim() != 4:
        raise ValueError(f"{op}: weight has shape {tuple(weight.shape)}; it takes four dimensions")
    if x.dtype != weight.dtype or (bias is not None and bias.dtype != x.dtype):
        got = f"x {x.dtype}, weight {weight.dtype}" + ("" if bias is None else f", bias {bias.dtype}")
        raise TypeError(f"{op}: {got}; they take one dtype")
    if not x.is_floating_point():
        raise TypeError(f"{op}: x has dtype {x.dtype}; it takes a floating-point tensor")
    if not isinstance(conv.groups, int) or conv.groups < 1 or weight.shape[0] % conv.groups:
        raise ValueError(f"{op}: groups is {conv.groups}; it takes a divisor of {weight.shape[0]}, weight's length")
    c_in = weight.shape[0] if conv.transposed else weight.shape[1] * conv.groups
    if x.shape[1] != c_in:
        raise ValueError(
            f"{op}: x has {x.shape[1]} channels; weight {tuple(weight.shape)} with groups={conv.groups} takes {c_in}"
        )
    c_out = conv.out_channels(weight)
    vectors = {"bias": bias, "gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (c_out,):
            raise ValueError(f"{op}: {name} has shape {tuple(vector.shape)}; it takes ({c_out},)")
    if (gamma is None) != (beta is None):
        raise ValueError(f"{op}: gamma and beta go together; got only {'beta' if gamma is None else 'gamma'}")
    if not norm:
        given = [name for name, vector in vectors.items() if vector is not None and name != "bias"]
        if given:
            raise ValueError(f"{op}: norm=False takes no {', '.join(given)}")
    elif not training and (running_mean is None or running_var is None):
        raise ValueError(f"{op}: norm=True with training=False takes running_mean and running_var")
    height, width = _checked_size(conv, x, weight)
    if norm and training and x.shape[0] * height * width == 1:  # as torch's BatchNorm does
        raise ValueError(
            f"{op}: norm=True with training=True takes more than one value a channel; {tuple(x.shape)} gives 1"
        )


def _checked_size(conv: Geometry, x: Tensor, weight: Tensor) -> list[int]:
    """[H', W'] of z, after a look at the integers it is made of."""
    for name, least in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1)):
        if min(getattr(conv, name)) < least:
            raise ValueError(f"{conv.name}: {name} is {getattr(conv, name)}; it takes integers from {least} up")
    for stride, more, dilation in zip(conv.stride, conv.output_padding, conv.dilation, strict=True):
        if more and more >= max(stride, dilation):
            raise ValueError(
                f"{conv.name}: output_padding is {conv.output_padding}; it takes less than stride {conv.stride} or "
                f"dilation {conv.dilation}"
            )
    size = conv.output_size(x, weight)
    for axis, length in enumerate(size):
        if length < 1:
            raise ValueError(
                f"{conv.name}: x {tuple(x.shape)} is too small along {'HW'[axis]} for kernel {weight.shape[axis + 2]}, "
                f"stride {conv.stride[axis]}, padding {conv.padding[axis]}, dilation {conv.dilation[axis]}: "
                "nothing would come out"
            )
    return size


def pair(op: str, name: str, value: IntPair) -> list[int]:
    """[a, b] of an int or a pair."""
    if isinstance(value, int):
        return [value, value]
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(isinstance(v, int) for v in value):
        raise ValueError(f"{op}: {name} is {value!r}; it takes an int or a pair of ints")
    return list(value)
