"""conv_transpose2d_bn_act: transposed convolution + BatchNorm + activation, the generator's layer.

Formula: _conv_bn_act.py.
"""

from __future__ import annotations

import torch

from fastgan.ops._conv_bn_act import ConvBnAct, Geometry, IntPair, conv_bn_act, define, pair

__all__ = ["conv_transpose2d_bn_act"]

define("conv_transpose2d_bn_act", transposed=True)


def conv_transpose2d_bn_act(
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
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    norm: bool = True,
    training: bool = True,
    eps: float = 1e-5,
    activation: str = "relu",
    negative_slope: float = 0.2,
) -> ConvBnAct:
    """y = act(batch_norm(conv_transpose2d(x, weight, bias))), as (y, z, mean, invstd).

    Args:
        x: (N, C_in, H, W); float32, bfloat16, float16 or float64; any strides.
        weight: (C_in, C_out / groups, kh, kw) in the dtype of x. bias: (C_out,) likewise, or None.
        output_padding: an int or a pair, added to one side of the output as in torch.nn.functional.conv_transpose2d.
        All others: as conv2d_bn_act. The DCGAN layer is a 4x4 kernel with stride=2, padding=1.

    Returns:
        ConvBnAct(y, z, mean, invstd); y has the strides torch's convolution gives. Only y is differentiable, with
        respect to x, weight, bias, gamma and beta: to any order by the kernels, twice by the reference in training.

    Under autocast x, weight and bias are cast as for a convolution; the statistics stay float32.

    Raises:
        ValueError, TypeError: naming the argument, what it got and what it takes.
    """
    op = "conv_transpose2d_bn_act"
    conv = Geometry(
        True,
        pair(op, "stride", stride),
        pair(op, "padding", padding),
        pair(op, "output_padding", output_padding),
        pair(op, "dilation", dilation),
        groups,
    )
    return conv_bn_act(
        conv, x, weight, bias, gamma, beta, running_mean, running_var, norm, training, eps, activation, negative_slope
    )
