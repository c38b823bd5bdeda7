"""gradient_penalty: WGAN-GP's penalty on the critic's input gradient, without double backward where that is exact.

    x_hat = epsilon * real + (1 - epsilon) * fake        epsilon ~ U[0, 1], one a sample
    P     = weight * mean over samples of (||dD/dx_hat||_2 - target)^2

Source: Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), equation 3 and Algorithm 1. The analytic path
is derived in _piecewise_linear.py.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import nn

from fastgan.ops import _noise, _piecewise_linear
from fastgan.ops._dispatch import autocasts
from fastgan.ops._penalty_ops import interpolate, penalty

__all__ = ["gradient_penalty"]

METHODS = ("auto", "analytic", "autograd")


class _AnalyticPenalty(torch.autograd.Function):
    """P as a function of the critic's weights; forward computes their gradients along with it."""

    @staticmethod
    def forward(ctx, program, x_hat, critic_args, weight, target, one_sided, needed, *parameters):
        value, gradients = program.run(x_hat, critic_args, weight, target, one_sided, needed)
        if needed:
            ctx.save_for_backward(*(gradients.get(p) for p in parameters))
        return value

    @staticmethod
    def backward(ctx, cotangent):
        gradients = [None if g is None else g * cotangent.to(g.dtype) for g in ctx.saved_tensors]
        if torch.is_grad_enabled():  # create_graph=True: the gradients are no functions of the weights here
            gradients = [
                None if g is None else _NoSecondDerivative.apply(g.detach().requires_grad_()) for g in gradients
            ]
        return *[None] * 7, *gradients


class _NoSecondDerivative(torch.autograd.Function):
    """The identity; its backward raises. once_differentiable would take the gradients for constants, in silence."""

    @staticmethod
    def forward(ctx, gradient):
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, cotangent):
        raise RuntimeError(
            "gradient_penalty: the analytic penalty is differentiable once; method='autograd' is as often as the critic"
        )


def gradient_penalty(
    critic: nn.Module | Callable[..., torch.Tensor],
    real: torch.Tensor,
    fake: torch.Tensor,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    critic_args: Sequence[object] = (),
    epsilon: torch.Tensor | None = None,
    method: str = "auto",
    autocast: bool = False,
) -> torch.Tensor:
    """The gradient penalty of ``critic`` between ``real`` and ``fake``: a 0-dim float32 tensor to add to the loss.

    Args:
        critic: a module or callable (N, ...) -> logits of any shape, called as critic(x_hat, *critic_args). Of a
            compiled, DataParallel or DistributedDataParallel critic the module inside is used.
        real, fake: (N, ...), one shape, dtype and device. Both are taken as constants: no gradient flows to them.
        weight: lambda of the paper. target: the norm aimed at (1 in the paper, 0 for DRAGAN-like variants).
        one_sided: penalise only norms above ``target``.
        critic_args: further arguments of the critic (labels, embeddings).
        epsilon: (N,) mixing weights in [0, 1]; drawn by torch.rand where None.
        method: "analytic": four forward-equivalents instead of six, for piecewise-linear critics (convolutions, linear
            layers, ReLU, LeakyReLU, linear plumbing; no norm layers, hooks, parametrisations or active dropout), equal
            to double backward to rounding. "autograd": double backward, for any critic. "auto": analytic where it is
            exact, autograd otherwise.
        autocast: let the critic compute in half precision where autocast is on. By default it does not: squared norms
            leave float16's range, and second derivatives bfloat16's accuracy.

    The norm is per sample, over all its elements, in float32. Differentiable once, with respect to the critic's
    parameters (by "autograd" as often as the critic is). Runs eager inside a compiled function. Under autocast,
    half-precision real, fake and critic_args are taken as float32.

    Raises:
        ValueError, TypeError: wrong shapes or options; or method="analytic" for a critic it does not cover, and why.
    """
    under_autocast = isinstance(real, torch.Tensor) and autocasts(real.device.type)
    if under_autocast:
        real, fake = _widened(real), _widened(fake)
    _check(critic, real, fake, weight, target, critic_args, epsilon, method)
    run = _eager(_gradient_penalty)
    if autocast or not under_autocast:
        return run(critic, real, fake, weight, target, one_sided, critic_args, epsilon, method)
    critic_args = [_widened(argument) for argument in critic_args]
    with torch.autocast(real.device.type, enabled=False):
        return run(critic, real, fake, weight, target, one_sided, critic_args, epsilon, method)


# What torch.compiler.disable sets. The decorator itself would import torch._dynamo, seconds of every `import fastgan`.
gradient_penalty._torchdynamo_disable = True


def _eager(function):
    """``function``, and where anything may be compiled at all, a form of it that is not."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def _eager_submodules():
    """Inside, submodules that the user compiled run eager: what torch.compile makes has no second derivative."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def _widened(argument):
    half = isinstance(argument, torch.Tensor) and argument.dtype in (torch.float16, torch.bfloat16)
    return argument.float() if half else argument


def _gradient_penalty(critic, real, fake, weight, target, one_sided, critic_args, epsilon, method) -> torch.Tensor:
    if torch.is_inference_mode_enabled():  # whose tensors have no gradients at all, not even inside enable_grad
        with torch.inference_mode(False), torch.no_grad():
            return _gradient_penalty(critic, real, fake, weight, target, one_sided, critic_args, epsilon, method)
    real, fake = real.detach(), fake.detach()
    if epsilon is None:
        epsilon = _noise.rand(len(real), device=real.device, dtype=real.dtype)
    x_hat = interpolate(real, fake, epsilon.detach().reshape(-1))
    critic = _inner(critic)
    if method != "autograd":
        try:
            program = _piecewise_linear.trace(_as_module(critic), len(critic_args))
            parameters = program.parameters
            needed = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
            return _AnalyticPenalty.apply(
                program, x_hat, tuple(critic_args), weight, target, one_sided, needed, *parameters
            )
        except _piecewise_linear.NotPiecewiseLinear as reason:
            if method == "analytic":
                raise ValueError(
                    f"gradient_penalty: method='analytic' does not cover this critic: {reason}; 'auto' does"
                ) from None
    return _double_backward(critic, x_hat, critic_args, weight, target, one_sided)


def _double_backward(critic, x_hat, critic_args, weight, target, one_sided) -> torch.Tensor:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), _eager_submodules():
        logits = critic(x_hat.requires_grad_(), *critic_args)
        if not isinstance(logits, torch.Tensor):
            raise ValueError(f"gradient_penalty: critic returned {type(logits).__name__}; it has to return one tensor")
        grad = None
        if logits.requires_grad:
            ones = torch.ones_like(logits)
            (grad,) = torch.autograd.grad(logits, x_hat, ones, create_graph=create_graph, allow_unused=True)
    if grad is None:
        raise ValueError("gradient_penalty: critic's output does not depend on its input in a differentiable way")
    return penalty(grad, weight, target, one_sided)


def _inner(critic):
    """The module inside torch.compile, DataParallel and DistributedDataParallel."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(critic, wrappers):
            critic = critic.module
        elif hasattr(critic, "_orig_mod"):
            critic = critic._orig_mod
        else:
            return critic


def _as_module(critic) -> nn.Module:
    if not isinstance(critic, nn.Module):
        raise _piecewise_linear.NotPiecewiseLinear(f"it is a {type(critic).__name__}, not an nn.Module")
    return critic


def _check(critic, real, fake, weight, target, critic_args, epsilon, method) -> None:
    if not callable(critic):
        raise TypeError(f"gradient_penalty: critic is {type(critic).__name__}; it takes a module or a function")
    for name, number in (("weight", weight), ("target", target)):
        if not isinstance(number, Real):
            raise TypeError(f"gradient_penalty: {name} is {type(number).__name__}; it takes a number")
    if not isinstance(critic_args, (tuple, list)):
        raise TypeError(f"gradient_penalty: critic_args is {type(critic_args).__name__}; it takes a tuple, (labels,)")
    if method not in METHODS:
        raise ValueError(f"gradient_penalty: method is {method!r}; it takes one of {', '.join(METHODS)}")
    for name, t in (("real", real), ("fake", fake)):
        if not isinstance(t, torch.Tensor) or not t.is_floating_point() or t.dim() < 2:
            got = f"{t.dtype} {tuple(t.shape)}" if isinstance(t, torch.Tensor) else type(t).__name__
            raise ValueError(f"gradient_penalty: {name} is {got}; it takes a floating-point tensor (N, ...)")
    if real.shape != fake.shape:
        raise ValueError(
            f"gradient_penalty: real has shape {tuple(real.shape)} and fake {tuple(fake.shape)}; they take one shape"
        )
    if real.dtype != fake.dtype or real.device != fake.device:
        raise ValueError(
            f"gradient_penalty: real is {real.dtype} on {real.device} and fake {fake.dtype} on {fake.device}; "
            "they take one dtype and device"
        )
    if epsilon is not None and (not isinstance(epsilon, torch.Tensor) or epsilon.numel() != len(real)):
        got = f"shape {tuple(epsilon.shape)}" if isinstance(epsilon, torch.Tensor) else f"type {type(epsilon).__name__}"
        raise ValueError(f"gradient_penalty: epsilon has {got}; it takes a tensor ({len(real)},)")
