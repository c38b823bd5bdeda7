"""Optimisers of the GANs' papers: torch's Adam in its fused form; RMSprop with WGAN's clip in the same pass.

RMSprop:  v <- alpha * v + (1 - alpha) * g^2;   p <- p - lr * g / (sqrt(v) + eps);   p <- min(max(p, -c), c)

Sources: Kingma & Ba, "Adam" (2015); Hinton, lecture 6e (2012); Arjovsky et al., "Wasserstein GAN" (2017), Algorithm 1.
"""

from __future__ import annotations

from itertools import zip_longest

import torch
from torch.optim.rmsprop import rmsprop as functional_rmsprop

from fastgan.ops._dispatch import use_kernel
from fastgan.ops._library import LIBRARY
from fastgan.ops._tensor_lists import dense_gap, increment_versions
from fastgan.ops.clip_weights import clip_weights_

__all__ = ["Adam", "RMSprop"]

LIBRARY.define(
    "rmsprop_clip_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, Tensor(c!)[] grad_avgs, "
    "Tensor(d!)[] momentum_buffers, Tensor? lr_tensor, float lr, float alpha, float eps, float weight_decay, "
    "float momentum, bool centered, bool maximize, float clip_value) -> ()"
)


@torch.library.register_fake("fastgan::rmsprop_clip_", lib=LIBRARY)
def _(*arguments) -> None:
    return None


class Adam(torch.optim.Adam):
    """torch.optim.Adam, fused where nothing else is asked for, and without its copies of channels-last gradients.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, and by keyword all else: as torch.optim.Adam.
        fused: True unless it, ``foreach``, ``capturable`` or ``differentiable`` is given or a parameter is complex.

    The update is torch's own; ``state_dict`` interchanges with torch.optim.Adam's in both directions.
    """

    def __init__(self, params, lr: float | torch.Tensor = 1e-3, *args, **kwargs) -> None:
        params = list(params)
        if not {"fused", "foreach", "capturable", "differentiable"} & kwargs.keys() and _can_be_fused(params):
            kwargs["fused"] = True
        super().__init__(params, lr, *args, **kwargs)

    def _init_group(self, group, params, grads, *lists):
        complex_ = super()._init_group(group, params, grads, *lists)
        *moments, _steps = lists
        if group["fused"]:
            for i, p in enumerate(params):
                if p.device.type == "cpu":
                    self._lay_out(i, p, params, grads, [tensors for tensors in moments if tensors])
        return complex_

    def _lay_out(self, i: int, p: torch.Tensor, params: list, grads: list, moments: list[list]) -> None:
        """Bring the i-th entries into the order of p in memory: torch's fused kernel on the CPU would mix others up."""
        if grads[i].stride() != p.stride():
            grads[i] = torch.empty_like(p).copy_(grads[i])
        for tensors in moments:
            if tensors[i].stride() != p.stride():  # loaded for a model in another layout
                tensors[i].set_(torch.empty_like(p).copy_(tensors[i]))
        if p.dim() == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last):
            # as contiguous views: of a parameter that is not, the kernel copies the gradient
            for tensors in (params, grads, *moments):
                tensors[i] = tensors[i].permute(0, 2, 3, 1)


def _can_be_fused(params: list) -> bool:
    tensors = [t for group in params for t in (group["params"] if isinstance(group, dict) else [group])]
    return all(
        isinstance(t, torch.Tensor) and t.is_floating_point() and t.device.type in ("cpu", "cuda") for t in tensors
    )


class RMSprop(torch.optim.RMSprop):
    """torch.optim.RMSprop followed by clamping every parameter to [-clip_value, clip_value], in one pass.

    Args:
        params, lr, alpha, eps, weight_decay, momentum, centered, maximize, capturable, foreach: as torch.optim.RMSprop.
        clip_value: c > 0 (0.01 in the WGAN paper), or None: no clipping. May differ between parameter groups.

    The update equals torch.optim.RMSprop's followed by ``p.clamp_(-c, c)``, to rounding. ``state_dict`` interchanges
    with torch.optim.RMSprop's in both directions. Parameters without a gradient are clipped too, as WGAN asks.
    Complex tensors, and what else no kernel covers, take torch's own update and a clamp.

    ``capturable=True`` lets a CUDA graph capture ``step``, as in torch: the step counts lie on the device. The graph
    repeats the options it was captured with; to change the learning rate between replays, give it as a CUDA tensor and
    write to that tensor: the kernel reads it on the device.

    Raises:
        ValueError: clip_value not above 0; differentiable=True, which a clamp in place cannot be.
    """

    def __init__(
        self, params, lr: float | torch.Tensor = 1e-2, *args, clip_value: float | None = None, **kwargs
    ) -> None:
        super().__init__(params, lr, *args, **kwargs)
        self.defaults["clip_value"] = clip_value
        for group in self.param_groups:
            self._complete(group)

    def __setstate__(self, state) -> None:
        before = self.__dict__.get("param_groups", [])  # load_state_dict replaces them; unpickling starts without
        super().__setstate__(state)
        for group, own in zip_longest(self.param_groups, before[: len(self.param_groups)], fillvalue={}):
            if "clip_value" in own:  # a state_dict of torch.optim.RMSprop has none: each group keeps its own
                group.setdefault("clip_value", own["clip_value"])
            self._complete(group)

    def add_param_group(self, param_group) -> None:
        if isinstance(param_group, dict):
            _check_clip_value(param_group.get("clip_value"))
        super().add_param_group(param_group)
        if "clip_value" in self.defaults:  # not yet while torch's __init__ adds the first groups
            self._complete(param_group)

    def _complete(self, group: dict) -> None:
        _check_clip_value(group.setdefault("clip_value", self.defaults["clip_value"]))
        if group["differentiable"]:
            raise ValueError("RMSprop: differentiable is True; it takes False (torch.optim.RMSprop takes True)")

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every group; ``closure`` as in torch.optim. Returns what the closure returns."""
        _health_check(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict) -> None:
        params, grads, square_avgs, momentum_buffers, grad_avgs, steps = [], [], [], [], [], []
        complex_ = self._init_group(group, params, grads, square_avgs, momentum_buffers, grad_avgs, steps)
        clip_value = group["clip_value"]
        unclipped = group["params"]
        gap = "a parameter is complex" if complex_ else _gap(group, params, grads, steps)
        lr = group["lr"]
        options = {key: group[key] for key in ("alpha", "eps", "weight_decay", "momentum", "centered", "maximize")}
        lists = (square_avgs, grad_avgs, momentum_buffers)
        gap = gap or dense_gap(params, *lists)
        if params and use_kernel("rmsprop_clip_", *params, *grads, gap=gap):
            torch._foreach_add_(steps, 1)
            # A gradient may come in another layout than its parameter (channels_last convolutions).
            grads = [
                g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
                for g, p in zip(grads, params, strict=True)
            ]
            learning_rate = (lr, 0.0) if isinstance(lr, torch.Tensor) else (None, lr)
            bound = -1.0 if clip_value is None else clip_value
            torch.ops.fastgan.rmsprop_clip_(params, grads, *lists, *learning_rate, *options.values(), bound)
            increment_versions([*params, *square_avgs, *grad_avgs, *momentum_buffers])
            unclipped = [p for p in group["params"] if p.grad is None]
        elif params:
            functional_rmsprop(
                params, grads, *lists, steps, foreach=group["foreach"], capturable=group["capturable"],
                differentiable=False, has_complex=complex_, lr=lr, **options,
            )  # fmt: skip
        if clip_value is not None and unclipped:
            clip_weights_(unclipped, clip_value)


def _check_clip_value(clip_value: float | None) -> None:
    if clip_value is not None and (not isinstance(clip_value, (int, float)) or not clip_value > 0):
        raise ValueError(f"RMSprop: clip_value is {clip_value}; it takes a number above 0, or None")


# Refuses to capture a step that is not capturable; renamed after torch 2.10.
_health_check = getattr(
    torch.optim.Optimizer,
    "_accelerator_graph_capture_health_check",
    torch.optim.Optimizer._cuda_graph_capture_health_check,
)


def _gap(group: dict, params: list[torch.Tensor], grads: list[torch.Tensor], steps: list[torch.Tensor]) -> str | None:
    """Why the kernel does not cover this group's options or gradients."""
    if group["capturable"] and not all(p.is_cuda and s.is_cuda for p, s in zip(params, steps, strict=True)):
        return "capturable is set, and a parameter or its step count is not on a CUDA device"
    return (
        "a gradient has another dtype" if any(g.dtype != p.dtype for g, p in zip(grads, params, strict=True)) else None
    )
