"""clip_weights_: WGAN's weight clipping, every tensor of a critic in one call.

    p <- min(max(p, -c), c)         for each parameter tensor p, in place; NaN stays NaN

Source: Arjovsky, Chintala, Bottou, "Wasserstein GAN" (2017), Algorithm 1, line 7.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fastgan.ops._dispatch import use_kernel
from fastgan.ops._library import LIBRARY
from fastgan.ops._tensor_lists import dense_gap, increment_versions

__all__ = ["clip_weights_"]

LIBRARY.define("clip_weights_(Tensor(a!)[] params, float clip_value) -> ()")


@torch.library.register_fake("fastgan::clip_weights_", lib=LIBRARY)
def _(params: list[torch.Tensor], clip_value: float) -> None:
    return None


def _reference(params: list[torch.Tensor], clip_value: float) -> None:
    if params[0].device.type == "cpu":
        for p in params:  # one pass over memory; the foreach form takes two
            p.clamp_(-clip_value, clip_value)
    else:
        torch._foreach_clamp_min_(params, -clip_value)
        torch._foreach_clamp_max_(params, clip_value)


def clip_weights_(parameters: torch.Tensor | Iterable[torch.Tensor], clip_value: float) -> None:
    """Clamp every tensor of ``parameters`` to [-clip_value, clip_value], in place and in one call.

    Args:
        parameters: one tensor or any iterable of them (``critic.parameters()``), any shapes, floating dtypes and dense
            layouts. BatchNorm's parameters are parameters too: the authors' code clips all of them.
        clip_value: c > 0; the paper uses 0.01.

    Call it after the optimiser's step. Not differentiable; tensors that require grad are updated as under no_grad, and
    a graph that saved their old values raises autograd's "modified by an inplace operation" in backward.
    """
    if not isinstance(parameters, Iterable):  # a module, as a rule
        raise TypeError(f"clip_weights_: parameters is {type(parameters).__name__}; it takes tensors: x.parameters()")
    params = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    if not isinstance(clip_value, (int, float)) or not clip_value > 0:
        raise ValueError(f"clip_weights_: clip_value is {clip_value}; it takes a number above 0")
    for i, p in enumerate(params):
        if not isinstance(p, torch.Tensor) or not p.is_floating_point():
            kind = p.dtype if isinstance(p, torch.Tensor) else type(p).__name__
            raise TypeError(f"clip_weights_: parameters[{i}] is {kind}; it takes floating-point tensors")
    if not params:
        return
    with torch.no_grad():
        if use_kernel("clip_weights_", *params, gap=dense_gap(params)):
            torch.ops.fastgan.clip_weights_(params, clip_value)
            increment_versions(params)
        else:
            _reference(params, clip_value)
