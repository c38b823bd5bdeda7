"""What the multi-tensor ops (clip_weights_, rmsprop_clip_) ask of their lists of tensors."""

from __future__ import annotations

import torch

__all__ = ["dense_gap", "increment_versions"]


def dense_gap(params: list[torch.Tensor], *companions: list[torch.Tensor]) -> str | None:
    """Why the flat kernels cannot walk these lists: they need each tensor's memory dense and its companions alike."""
    for i, p in enumerate(params):
        if not torch.ops.aten.is_non_overlapping_and_dense(p):
            return f"parameter {i} (strides {tuple(p.stride())}) is not dense in memory"
        for other in companions:
            if other and (other[i].stride() != p.stride() or other[i].dtype != p.dtype):
                return f"the gradient or state of parameter {i} has another layout or dtype than the parameter"
    return None


def increment_versions(tensors: list[torch.Tensor]) -> None:
    """Tell autograd that a kernel wrote to these tensors: stable-ABI ops on lists leave the version counter alone."""
    torch.autograd.graph.increment_version(tensors)
