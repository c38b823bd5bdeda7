"""Paths between latent points: straight lines, arcs of great circles, and walks that close on themselves.

Source: White 2016, "Sampling Generative Networks", section 2.1 (spherical interpolation). Between points of unequal
norm White mixes the points themselves by the weights of the arc; here the direction moves along the arc and the norm
along a line, so that the angular speed is constant for them too. For equal norms both are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["linear", "spherical", "walk"]

Interpolation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# below this sine of the angle between two opposite directions, rounding decides which great circle joins them
OPPOSITE = 1e-6


def linear(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Points on the straight line from ``a`` to ``b``.

    Args:
        a, b: (..., z_dim) floating.
        t: (T,), 0 gives ``a`` and 1 gives ``b``, both exactly.

    Returns:
        (T, ..., z_dim).
    """
    _check(a, b, t)
    along = _over_points(t, a)
    return _with_ends(a * (1 - along) + b * along, a, b, along)


def spherical(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Points on the great circle from the direction of ``a`` to that of ``b``, at constant angular speed.

    Norms change linearly, hence not at all between points of one norm. Noise of many dimensions lies near a sphere,
    which a straight line leaves. Parallel points give a straight line. Opposite points are joined by one of their great
    circles, always the same one.

    Args:
        a, b: (..., z_dim) floating, z_dim at least 2.
        t: (T,), 0 gives ``a`` and 1 gives ``b``, both exactly.

    Returns:
        (T, ..., z_dim).

    Raises:
        ValueError: shapes that do not fit, points on a line (z_dim 1), or the origin, which has no direction.
    """
    _check(a, b, t)
    if a.shape[-1] < 2:
        raise ValueError("spherical interpolation takes points of at least 2 dimensions: between numbers use linear")
    along = _over_points(t.to(torch.float64), a)
    a64, b64 = a.to(torch.float64), b.to(torch.float64)
    norm_a, norm_b = a64.norm(dim=-1, keepdim=True), b64.norm(dim=-1, keepdim=True)
    if not (norm_a.all() and norm_b.all()):
        raise ValueError("spherical interpolation takes points with a direction: the origin has none, use linear")
    u, v = a64 / norm_a, b64 / norm_b
    # the arc cosine of u.v would lose half the digits of small angles
    angle = 2 * torch.atan2((u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True))
    direction = torch.cos(along * angle) * u + torch.sin(along * angle) * _perpendicular(u, v)
    points = (norm_a + (norm_b - norm_a) * along) * direction
    return _with_ends(points.to(a.dtype), a, b, along)


def walk(points: torch.Tensor, steps: int, path: Interpolation = spherical) -> torch.Tensor:
    """A walk through ``points`` (K, ..., z_dim) and back to the first: (K * steps, ..., z_dim).

    Each leg has ``steps`` points, its start among them and its end left to the next leg, so that the walk repeated
    goes on evenly.
    """
    if len(points) < 2:
        raise ValueError(f"a walk takes at least 2 points, got {len(points)}")
    if steps < 1:
        raise ValueError(f"steps is {steps}; a leg of a walk takes at least 1")
    t = torch.arange(steps, dtype=points.dtype, device=points.device) / steps
    return torch.cat([path(a, b, t) for a, b in zip(points, points.roll(-1, 0), strict=True)])


def _check(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> None:
    if a.shape != b.shape or a.dim() < 1:
        raise ValueError(f"a and b take one shape (..., z_dim), got {tuple(a.shape)} and {tuple(b.shape)}")
    if t.dim() != 1:
        raise ValueError(f"t takes shape (T,), got {tuple(t.shape)}")


def _over_points(t: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    return t.view(-1, *[1] * a.dim())


def _with_ends(points: torch.Tensor, a: torch.Tensor, b: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """Without the rounding of the formula at t = 0 and t = 1."""
    return torch.where(along == 0, a, torch.where(along == 1, b, points))


def _perpendicular(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Unit vectors perpendicular to ``u`` in the plane of u and v; where that is no plane, towards the axis that u is
    farthest from. (For parallel vectors any will do: the angle is 0.)"""
    across = v - (u * v).sum(-1, keepdim=True) * u
    axis = torch.zeros_like(u).scatter_(-1, u.abs().argmin(-1, keepdim=True), 1.0)
    axis = axis - (u * axis).sum(-1, keepdim=True) * u
    across = torch.where(across.norm(dim=-1, keepdim=True) < OPPOSITE, axis, across)
    return across / across.norm(dim=-1, keepdim=True)
