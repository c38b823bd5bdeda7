"""What the multi-tensor ops (clip_weights_, rmsprop_clip_) ask of their lists of tensors."""

from __future__ import annotations

import torch

__all__ = ["dense_gap", "increment_versions"]


def dense_gap(params: list[torch.Tensor], *companions: list[torch.Tensor]) -> str | None:
    """Why the flat kernels cannot walk these lists: they need each tensor's memory dense and its companions alike."""
    for i, p in enumerate(params):
        if not (p.is_contiguous() or _is_dense(p)):
            return f"parameter {i} (strides {tuple(p.stride())}) is not dense in memory"
        for other in companions:
            if other and (other[i].stride() != p.stride() or other[i].dtype != p.dtype):
                return f"the gradient or state of parameter {i} has another layout or dtype than the parameter"
    return None


def _is_dense(t: torch.Tensor) -> bool:
    """Whether t's elements fill one block of memory in some order of its axes (in terms torch.compile can trace)."""
    if t.numel() == 0:
        return True
    step = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape, strict=True) if size != 1):
        if stride != step:
            return False
        step *= size
    return True


def increment_versions(tensors: list[torch.Tensor]) -> None:
    """Tell autograd that a kernel wrote to these tensors: stable-ABI ops on lists leave the version counter alone."""
    torch.autograd.graph.increment_version(tensors)
