"""The inner ops of the gradient penalty: interpolation, per-sample norm with penalty and its gradient, activation mask.

    interpolate      x_hat = epsilon * real + (1 - epsilon) * fake                     one epsilon a sample
    penalty          n     = ||grad||_2 a sample;  d = n - target  (one-sided: max(d, 0))
                     P     = weight * mean(d^2);   dP/dgrad = 2 * weight / N * d * grad / n     (0 where n is 0)
    leaky_mask_mul   t * act'(.) read off the sign of the activation's output y: t * (1 if y > 0 else negative_slope)

Norms, means and P are float32 (float64 for float64 input). Source: Gulrajani et al., "Improved Training of Wasserstein
GANs" (2017), equation 3; one-sided form: Petzka et al., "On the regularization of Wasserstein GANs" (2018), section 4.
"""

from __future__ import annotations

import torch

from fastgan.ops._dispatch import use_kernel
from fastgan.ops._library import LIBRARY
from fastgan.ops.bn_act import statistics_dtype

__all__ = ["interpolate", "leaky_mask_mul", "penalty"]

Tensor = torch.Tensor

LIBRARY.define("interpolate(Tensor real, Tensor fake, Tensor epsilon) -> Tensor")
LIBRARY.define(
    "penalty(Tensor grad, float weight, float target, bool one_sided) -> "
    "(Tensor penalty, Tensor norms, Tensor grad_penalty)"
)
LIBRARY.define("leaky_mask_mul(Tensor t, Tensor y, float negative_slope) -> Tensor")


@torch.library.register_fake("fastgan::interpolate", lib=LIBRARY)
def _(real, fake, epsilon):
    return torch.empty_like(real)


@torch.library.register_fake("fastgan::penalty", lib=LIBRARY)
def _(grad, weight, target, one_sided):
    norms = grad.new_empty(grad.shape[0], dtype=statistics_dtype(grad))
    return norms.new_empty(()), norms, torch.empty_like(grad)


@torch.library.register_fake("fastgan::leaky_mask_mul", lib=LIBRARY)
def _(t, y, negative_slope):
    return torch.empty_like(t)


def per_sample(vector: Tensor, like: Tensor) -> Tensor:
    """(N,) viewed so that it broadcasts over ``like`` (N, ...)."""
    return vector.view(-1, *[1] * (like.dim() - 1))


def _penalty_reference(grad: Tensor, weight: float, target: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    """(penalty, norms), differentiable to any order; at norm 0 the subgradient 0 is taken."""
    norms = torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=statistics_dtype(grad))
    distance = norms - target
    if one_sided:
        distance = distance.clamp(min=0)
    return weight * distance.square().mean(), norms


def _grad_penalty_formula(grad: Tensor, weight: float, target: float, one_sided: bool) -> Tensor:
    norms = torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=statistics_dtype(grad))
    distance = norms - target
    if one_sided:
        distance = distance.clamp(min=0)
    safe = torch.where(norms > 0, norms, 1.0)
    scale = 2 * weight / max(len(grad), 1) * distance / safe
    return (per_sample(scale, grad) * grad.to(norms.dtype)).to(grad.dtype)


def _penalty_context(ctx, inputs, output):
    grad, ctx.weight, ctx.target, ctx.one_sided = inputs
    _, norms, grad_penalty = output
    ctx.mark_non_differentiable(norms, grad_penalty)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, grad_penalty)


def _penalty_derivative(ctx, cotangent, *_):
    grad, grad_penalty = ctx.saved_tensors
    if cotangent is None:
        return None, None, None, None
    if torch.is_grad_enabled():
        grad_penalty = _grad_penalty_formula(grad, ctx.weight, ctx.target, ctx.one_sided)
    return grad_penalty * cotangent.to(grad.dtype), None, None, None


torch.library.register_autograd("fastgan::penalty", _penalty_derivative, setup_context=_penalty_context, lib=LIBRARY)


def interpolate(real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """epsilon * real + (1 - epsilon) * fake; real, fake (N, ...), epsilon (N,). Not differentiable."""
    gap = None if real.numel() else "the batch is empty"
    if use_kernel("interpolate", real, fake, epsilon, gap=gap):
        return torch.ops.fastgan.interpolate(real, fake, epsilon)
    return torch.lerp(fake, real, per_sample(epsilon.to(real.dtype), real))


def penalty(grad: Tensor, weight: float, target: float, one_sided: bool) -> Tensor:
    """P of the formula above for grad (N, ...), 0-dim; differentiable to any order."""
    gap = None if grad.numel() else "the batch is empty"
    if use_kernel("penalty", grad, gap=gap):
        return torch.ops.fastgan.penalty(grad, weight, target, one_sided)[0]
    return _penalty_reference(grad, weight, target, one_sided)[0]


def penalty_and_gradient(grad: Tensor, weight: float, target: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    """(P, dP/dgrad) for grad (N, ...), as values."""
    gap = None if grad.numel() else "the batch is empty"
    if use_kernel("penalty", grad, gap=gap):
        value, _, gradient = torch.ops.fastgan.penalty(grad, weight, target, one_sided)
        return value, gradient
    value, _ = _penalty_reference(grad, weight, target, one_sided)
    return value, _grad_penalty_formula(grad, weight, target, one_sided)


def leaky_mask_mul(t: Tensor, y: Tensor, negative_slope: float) -> Tensor:
    """t * (1 where y > 0, negative_slope elsewhere), t and y of one shape; not differentiable."""
    gap = None if t.numel() else "the batch is empty"
    if t.stride() != y.stride():
        gap = "t and y have other strides"
    if use_kernel("leaky_mask_mul", t, y, gap=gap):
        return torch.ops.fastgan.leaky_mask_mul(t, y, negative_slope)
    return torch.ops.aten.leaky_relu_backward(t, y, negative_slope, True)
