"""conv2d_bn_act: convolution + BatchNorm + activation, the discriminator's layer. Formula: _conv_bn_act.py."""

from __future__ import annotations

import torch

from fastgan.ops._conv_bn_act import ConvBnAct, Geometry, IntPair, conv_bn_act, define, pair

__all__ = ["conv2d_bn_act"]

define("conv2d_bn_act", transposed=False)


def conv2d_bn_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    norm: bool = True,
    training: bool = True,
    eps: float = 1e-5,
    activation: str = "relu",
    negative_slope: float = 0.2,
) -> ConvBnAct:
    """y = act(batch_norm(conv2d(x, weight, bias))), as (y, z, mean, invstd).

    Args:
        x: (N, C_in, H, W); float32, bfloat16, float16 or float64; any strides.
        weight: (C_out, C_in / groups, kh, kw) in the dtype of x. bias: (C_out,) likewise, or None.
        gamma, beta: (C_out,) BatchNorm's weight and bias, both or neither; may be float32 beside a half-precision x.
        running_mean, running_var: (C_out,), read where training is False and never written: see
            update_running_stats_.
        stride, padding, dilation: an int or a pair. groups: as torch.nn.functional.conv2d takes it.
        norm: False leaves BatchNorm out: y = act(conv2d(x, weight, bias)).
        training: normalise by this batch's statistics (True) or by the running ones (False).
        eps: added to the variance. activation: "none", "relu", "leaky_relu", "tanh".
        negative_slope: of leaky_relu.

    Returns:
        ConvBnAct(y, z, mean, invstd); y has the strides torch's convolution gives. Only y is differentiable, with
        respect to x, weight, bias, gamma and beta: to any order by the kernels, twice by the reference in training.

    Under autocast x, weight and bias are cast as for a convolution; the statistics stay float32.

    Raises:
        ValueError, TypeError: naming the argument, what it got and what it takes.
    """
    op = "conv2d_bn_act"
    conv = Geometry(
        False, pair(op, "stride", stride), pair(op, "padding", padding), [0, 0], pair(op, "dilation", dilation), groups
    )
    return conv_bn_act(
        conv, x, weight, bias, gamma, beta, running_mean, running_var, norm, training, eps, activation, negative_slope
    )
