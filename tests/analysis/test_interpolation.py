"""Paths between latent points against what geometry says of them."""

from __future__ import annotations

import math

import pytest
import torch

from fastgan.analysis.interpolation import linear, spherical, walk

T = torch.linspace(0, 1, 11)


def points(seed: int = 0, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, *(shape or (5, 100)), generator=generator)
    return a, b


@pytest.mark.parametrize("path", [linear, spherical])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_exact_and_the_dtype_stays(path, dtype):
    a, b = (x.to(dtype) for x in points())
    along = path(a, b, T.to(dtype))
    assert along.shape == (11, 5, 100) and along.dtype == dtype
    assert torch.equal(along[0], a) and torch.equal(along[-1], b)


def test_linear_is_the_straight_line():
    a, b = points()
    torch.testing.assert_close(linear(a, b, torch.tensor([0.25]))[0], 0.75 * a + 0.25 * b)


def test_spherical_keeps_the_norm_where_linear_loses_it():
    a, b = points()
    a, b = 10 * a / a.norm(dim=1, keepdim=True), 10 * b / b.norm(dim=1, keepdim=True)
    torch.testing.assert_close(spherical(a, b, T).norm(dim=-1), torch.full((11, 5), 10.0))
    assert linear(a, b, T)[5].norm(dim=-1).max() < 9


def test_spherical_moves_at_constant_angular_speed_and_its_norm_changes_linearly():
    a, b = points()
    b = 3 * b
    arc = spherical(a.double(), b.double(), torch.linspace(0, 1, 11, dtype=torch.float64))
    cosine = torch.cosine_similarity(arc[:-1], arc[1:], dim=-1)
    whole = torch.cosine_similarity(a.double(), b.double(), dim=-1).acos()
    torch.testing.assert_close(cosine.acos(), (whole / 10).expand(10, 5))
    norms = arc.norm(dim=-1)
    slope = (b.double().norm(dim=1) - a.double().norm(dim=1)) / 10
    torch.testing.assert_close(norms.diff(dim=0), slope.expand(10, 5))


def test_a_quarter_circle_by_hand():
    half = spherical(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5]))[0]
    torch.testing.assert_close(half, torch.full((2,), math.sqrt(0.5)))


def test_for_equal_norms_it_is_whites_formula():
    a, b = (x.double() / x.double().norm(dim=1, keepdim=True) for x in points(1))
    angle = (a * b).sum(1, keepdim=True).acos()
    t = 0.3
    expected = ((1 - t) * angle).sin() / angle.sin() * a + (t * angle).sin() / angle.sin() * b
    torch.testing.assert_close(spherical(a, b, torch.tensor([t], dtype=torch.float64))[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parallel_points_give_the_straight_line(dtype):
    a = points()[0].to(dtype)
    for b in (a, 2 * a, a * (1 + 1e-7)):
        torch.testing.assert_close(spherical(a, b, T.to(dtype)), linear(a, b, T.to(dtype)))


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_opposite_points_are_joined_by_a_half_circle(noise):
    a, other = points()
    b = -a + noise * other
    arc = spherical(a, b, T)
    torch.testing.assert_close(arc.norm(dim=-1), a.norm(dim=-1).expand(11, 5), rtol=1e-5, atol=0)
    assert torch.cosine_similarity(arc[5], a, dim=-1).abs().max() < 1e-5
    assert torch.equal(arc, spherical(a, b, T))
    axis = torch.eye(3)[:1]  # the very axes of the coordinates
    assert spherical(axis, -axis, T).isfinite().all()


def test_a_walk_passes_its_points_evenly_and_closes_on_itself():
    a, b = points()
    corners = torch.stack([a, b, -b])
    steps = walk(corners, 7)
    assert steps.shape == (21, 5, 100)
    assert torch.equal(steps[::7], corners)
    twice = torch.cat([steps, steps])  # what an endless GIF shows
    assert (twice[1:] != twice[:-1]).flatten(1).any(1).all()
    third = walk(corners, 4, linear)[8:]
    torch.testing.assert_close(third[1], linear(-b, a, torch.tensor([0.25]))[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spherical(torch.ones(1), torch.ones(1), T), "at least 2 dimensions"),
        (lambda: spherical(torch.zeros(3), torch.ones(3), T), "the origin has none"),
        (lambda: linear(torch.ones(3), torch.ones(4), T), "take one shape"),
        (lambda: linear(torch.ones(3), torch.ones(3), torch.tensor(0.5)), "t takes shape"),
        (lambda: walk(torch.ones(1, 3), 4), "at least 2 points"),
        (lambda: walk(torch.ones(2, 3), 0), "steps is 0"),
    ],
)
def test_what_has_no_path_is_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
