"""The stages of a fused BatchNorm + activation, forward and backward, each callable alone.

    bn_stats                 mean, var  = statistics of z over (N, H, W)
    bn_act                   y          = act(gamma * (z - mean) * invstd + beta)
    bn_act_backward_reduce   sum_g      = sum g,  sum_g_xhat = sum g * xhat        with g = grad_y * act'(u)
    bn_act_backward_elemt    grad_z     = gamma * invstd * (g - mean_g - xhat * mean_g_xhat)

    u = gamma * xhat + beta,   xhat = (z - mean) * invstd,   sums and means over (N, H, W)

A synchronised BatchNorm reduces between the processes after bn_stats and after bn_act_backward_reduce.
These are the pieces of a derivative, not differentiable functions: conv2d_bn_act and conv_transpose2d_bn_act are those.
The references below are made of differentiable aten operations, and the convolution ops' second derivative uses them.

Shapes: z, y, grad_y (N, C, *); mean, var, invstd, gamma, beta, sums (C,), float32 (float64 where z is float64).
Source: Ioffe, Szegedy, "Batch Normalization" (2015), Algorithm 1 and section 3.
"""

from __future__ import annotations

import torch

from fastgan.ops._dispatch import use_kernel
from fastgan.ops._library import LIBRARY

__all__ = [
    "ACTIVATIONS",
    "activation_gap",
    "apply_activation",
    "apply_activation_",
    "bn_act",
    "bn_act_backward_elemt",
    "bn_act_backward_reduce",
    "bn_stats",
    "check_activation",
    "update_running_stats_",
]

Tensor = torch.Tensor
ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh")

_AFFINE = "Tensor mean, Tensor invstd, Tensor? gamma, Tensor? beta"
_ACT = "str activation, float negative_slope"
LIBRARY.define("bn_stats(Tensor z) -> (Tensor mean, Tensor var)")
LIBRARY.define(f"bn_act(Tensor z, {_AFFINE}, {_ACT}) -> Tensor")
LIBRARY.define(
    f"bn_act_backward_reduce(Tensor grad_y, Tensor y, Tensor z, {_AFFINE}, {_ACT}) -> (Tensor sum_g, Tensor sum_g_xhat)"
)
LIBRARY.define(
    f"bn_act_backward_elemt(Tensor grad_y, Tensor y, Tensor z, {_AFFINE}, Tensor mean_g, Tensor mean_g_xhat, {_ACT})"
    " -> Tensor grad_z"
)
LIBRARY.define(
    "update_running_stats_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor invstd, int count, "
    "float momentum, float eps) -> ()"
)


def statistics_dtype(z: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for all others."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


@torch.library.register_fake("fastgan::bn_stats", lib=LIBRARY)
def _(z):
    stats = z.new_empty(z.shape[1], dtype=statistics_dtype(z))
    return stats, torch.empty_like(stats)


@torch.library.register_fake("fastgan::bn_act", lib=LIBRARY)
def _(z, mean, invstd, gamma, beta, activation, negative_slope):
    return torch.empty_like(z)


@torch.library.register_fake("fastgan::bn_act_backward_reduce", lib=LIBRARY)
def _(grad_y, y, z, mean, invstd, gamma, beta, activation, negative_slope):
    return torch.empty_like(mean), torch.empty_like(mean)


@torch.library.register_fake("fastgan::bn_act_backward_elemt", lib=LIBRARY)
def _(grad_y, y, z, mean, invstd, gamma, beta, mean_g, mean_g_xhat, activation, negative_slope):
    return torch.empty_like(z)


@torch.library.register_fake("fastgan::update_running_stats_", lib=LIBRARY)
def _(running_mean, running_var, mean, invstd, count, momentum, eps):
    return None


def check_activation(op: str, activation: str) -> None:
    """Raise ValueError where ``activation`` is none of ACTIVATIONS."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation is {activation!r}; it takes one of {', '.join(ACTIVATIONS)}")


def activation_gap(activation: str, negative_slope: float) -> str | None:
    """Why the kernels cannot take this activation: they read its derivative off the sign of the output."""
    if activation == "leaky_relu" and negative_slope < 0:
        return f"negative_slope is {negative_slope}, and a kernel takes 0 or more"
    return None


def apply_activation(u: Tensor, activation: str, negative_slope: float) -> Tensor:
    """act(u)."""
    if activation == "relu":
        return torch.relu(u)
    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu(u, negative_slope)
    return torch.tanh(u) if activation == "tanh" else u


def apply_activation_(u: Tensor, activation: str, negative_slope: float) -> Tensor:
    """act(u) in u's memory; u must be nobody else's. Differentiable, as torch's in-place activations are."""
    if activation == "relu":
        return torch.relu_(u)
    if activation == "leaky_relu" and negative_slope >= 0:  # autograd reads the derivative off the sign of the result
        return torch.nn.functional.leaky_relu_(u, negative_slope)
    return torch.tanh_(u) if activation == "tanh" else apply_activation(u, activation, negative_slope)


def activation_backward(grad_y: Tensor, u: Tensor, activation: str, negative_slope: float) -> Tensor:
    """grad_y * act'(u); differentiable in grad_y, and in u where act is curved (tanh)."""
    if activation == "tanh":
        return grad_y * (1 - torch.tanh(u) ** 2)
    if activation == "none":
        return grad_y
    slope = negative_slope if activation == "leaky_relu" else 0.0
    return torch.where(u.detach() > 0, grad_y, grad_y * slope)


def over_channels(vector: Tensor, z: Tensor) -> Tensor:
    """(C,) viewed so that it broadcasts over z (N, C, *)."""
    return vector.view(1, -1, *[1] * (z.dim() - 2))


def reduced_dims(z: Tensor) -> list[int]:
    return [0, *range(2, z.dim())]


def normalise(z: Tensor, mean: Tensor, invstd: Tensor, gamma: Tensor | None, beta: Tensor | None):
    """(xhat, u) of the formula above, in the dtype of the statistics."""
    xhat = (z.to(mean.dtype) - over_channels(mean, z)) * over_channels(invstd, z)
    u = xhat if gamma is None else xhat * over_channels(gamma.to(mean.dtype), z)
    return xhat, u if beta is None else u + over_channels(beta.to(mean.dtype), z)


def bn_stats_reference(z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.to(statistics_dtype(z))
    var, mean = torch.var_mean(z, reduced_dims(z), correction=0)
    return mean, var


def bn_act_reference(z, mean, invstd, gamma, beta, activation, negative_slope):
    _, u = normalise(z, mean, invstd, gamma, beta)
    return apply_activation(u, activation, negative_slope).to(z.dtype)


def bn_act_backward_reduce_reference(grad_y, z, mean, invstd, gamma, beta, activation, negative_slope):
    xhat, u = normalise(z, mean, invstd, gamma, beta)
    g = activation_backward(grad_y.to(mean.dtype), u, activation, negative_slope)
    return g.sum(reduced_dims(z)), (g * xhat).sum(reduced_dims(z))


def bn_act_backward_elemt_reference(
    grad_y, z, mean, invstd, gamma, beta, mean_g, mean_g_xhat, activation, negative_slope
):
    xhat, u = normalise(z, mean, invstd, gamma, beta)
    g = activation_backward(grad_y.to(mean.dtype), u, activation, negative_slope)
    scale = invstd if gamma is None else invstd * gamma.to(mean.dtype)
    centred = g - over_channels(mean_g, z) - xhat * over_channels(mean_g_xhat, z)
    return (over_channels(scale, z) * centred).to(z.dtype)


def bn_stats(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of z (N, C, *) over all dimensions but the second: two (C,) tensors, float32 or float64.

    The variance is computed about the mean, never as E[z^2] - mean^2.
    """
    if use_kernel("bn_stats", z, gap=_empty_gap(z)):
        return torch.ops.fastgan.bn_stats(z)
    return bn_stats_reference(z)


def bn_act(
    z: Tensor,
    mean: Tensor,
    invstd: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    activation: str = "relu",
    negative_slope: float = 0.2,
) -> Tensor:
    """act(gamma * (z - mean) * invstd + beta), shape, dtype and strides of z (N, C, *); the vectors are (C,).

    activation: "none", "relu", "leaky_relu" (with negative_slope) or "tanh".
    """
    check_activation("bn_act", activation)
    gap = _empty_gap(z) or activation_gap(activation, negative_slope)
    if use_kernel("bn_act", z, mean, invstd, gamma, beta, gap=gap):
        return torch.ops.fastgan.bn_act(z, mean, invstd, gamma, beta, activation, negative_slope)
    return bn_act_reference(z, mean, invstd, gamma, beta, activation, negative_slope)


def bn_act_backward_reduce(
    grad_y: Tensor,
    y: Tensor,
    z: Tensor,
    mean: Tensor,
    invstd: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    activation: str = "relu",
    negative_slope: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """The sums of g and of g * xhat over (N, *): the gradients of beta and gamma, two (C,) tensors.

    y is bn_act's output; only tanh reads it.
    """
    check_activation("bn_act_backward_reduce", activation)
    gap = _empty_gap(z) or activation_gap(activation, negative_slope)
    if use_kernel("bn_act_backward_reduce", grad_y, y, z, mean, invstd, gamma, beta, gap=gap):
        return torch.ops.fastgan.bn_act_backward_reduce(
            grad_y, y, z, mean, invstd, gamma, beta, activation, negative_slope
        )
    return bn_act_backward_reduce_reference(grad_y, z, mean, invstd, gamma, beta, activation, negative_slope)


def bn_act_backward_elemt(
    grad_y: Tensor,
    y: Tensor,
    z: Tensor,
    mean: Tensor,
    invstd: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean_g: Tensor,
    mean_g_xhat: Tensor,
    activation: str = "relu",
    negative_slope: float = 0.2,
) -> Tensor:
    """The gradient of z, given the means of g and g * xhat over (N, *) (zeros where the statistics were constants)."""
    check_activation("bn_act_backward_elemt", activation)
    gap = _empty_gap(z) or activation_gap(activation, negative_slope)
    if use_kernel("bn_act_backward_elemt", grad_y, y, z, mean, invstd, gamma, beta, mean_g, mean_g_xhat, gap=gap):
        return torch.ops.fastgan.bn_act_backward_elemt(
            grad_y, y, z, mean, invstd, gamma, beta, mean_g, mean_g_xhat, activation, negative_slope
        )
    return bn_act_backward_elemt_reference(
        grad_y, z, mean, invstd, gamma, beta, mean_g, mean_g_xhat, activation, negative_slope
    )


def _empty_gap(z: Tensor) -> str | None:
    return "the batch is empty" if z.numel() == 0 else None


@torch.no_grad()
def update_running_stats_(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, invstd: Tensor, count: int, momentum: float, eps: float
) -> None:
    """What BatchNorm does to its buffers after a training forward, in place.

        running_mean <- (1 - momentum) * running_mean + momentum * mean
        running_var  <- (1 - momentum) * running_var  + momentum * count / (count - 1) * (invstd^-2 - eps)

    All tensors (C,). count: number of values each channel's statistics were taken over (N * H * W of the convolution's
    output); with count 0 nothing changes. eps: the one that invstd was made with.
    """
    if count == 0:
        return
    buffers = (running_mean, running_var)
    alike = running_mean.dtype == running_var.dtype and running_mean.is_contiguous() and running_var.is_contiguous()
    gap = None if alike else "running_mean and running_var are not contiguous, or of two dtypes"
    # a compiler fuses the reference with what is around it
    worthwhile = not torch.compiler.is_compiling()
    if use_kernel("update_running_stats_", *buffers, mean, invstd, gap=gap, worthwhile=worthwhile):
        torch.ops.fastgan.update_running_stats_(*buffers, mean, invstd, count, momentum, eps)
        return
    unbiased = count / max(count - 1, 1)
    var = invstd.pow(-2).sub_(eps)
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.mul_(1 - momentum).add_(var, alpha=momentum * unbiased)
