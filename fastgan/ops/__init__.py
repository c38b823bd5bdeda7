"""Fused operations for GANs: a PyTorch reference and a kernel behind one switch, usable in anybody's training code."""

from fastgan.ops._conv_bn_act import ConvBnAct
from fastgan.ops._convolution import release_workspaces
from fastgan.ops._dispatch import use
from fastgan.ops.bn_act import bn_act, bn_act_backward_elemt, bn_act_backward_reduce, bn_stats, update_running_stats_
from fastgan.ops.clip_weights import clip_weights_
from fastgan.ops.conv2d_bn_act import conv2d_bn_act
from fastgan.ops.conv_transpose2d_bn_act import conv_transpose2d_bn_act
from fastgan.ops.gradient_penalty import gradient_penalty

__all__ = [
    "ConvBnAct",
    "bn_act",
    "bn_act_backward_elemt",
    "bn_act_backward_reduce",
    "bn_stats",
    "clip_weights_",
    "conv2d_bn_act",
    "conv_transpose2d_bn_act",
    "gradient_penalty",
    "release_workspaces",
    "update_running_stats_",
    "use",
]
