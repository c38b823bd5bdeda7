"""The Laplacian pyramid against values worked out by hand, and against its inverse."""

from __future__ import annotations

import pytest
import torch

from fastgan.nn.pyramid import build_pyramid, collapse_pyramid, downsample, upsample


def test_down_is_the_mean_of_four_pixels():
    image = torch.tensor([[1.0, 3.0, 0.0, 8.0], [5.0, 7.0, 4.0, 4.0]])[None, None]
    assert torch.equal(downsample(image), torch.tensor([[[[4.0, 4.0]]]]))


def test_up_interpolates_between_the_pixels_centres():
    row = torch.tensor([[[[0.0, 4.0]]]])
    expected = torch.tensor([[0.0, 1.0, 3.0, 4.0]] * 2)[None, None]
    assert torch.equal(upsample(row), expected)


def test_a_flat_image_has_no_residual():
    coarsest, residuals = build_pyramid(torch.full((1, 3, 16, 16), 0.25), 2)
    assert torch.equal(coarsest, torch.full((1, 3, 4, 4), 0.25))
    assert [r.abs().max().item() for r in residuals] == [0.0, 0.0]


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_collapse_undoes_build(levels):
    image = torch.rand(2, 3, 32, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    coarsest, residuals = build_pyramid(image, levels)
    assert coarsest.shape == (2, 3, 32 >> levels, 16 >> levels)
    assert [tuple(r.shape[2:]) for r in residuals] == [(32 >> i, 16 >> i) for i in reversed(range(levels))]
    # a sum and a difference of numbers below 2 for every level
    assert (collapse_pyramid(coarsest, residuals) - image).abs().max() <= 4 * levels * torch.finfo(image.dtype).eps


def test_collapse_is_linear_in_the_residuals():
    coarsest, residuals = build_pyramid(torch.rand(1, 1, 8, 8), 1)
    moved = collapse_pyramid(coarsest, [residuals[0] + 0.5])
    torch.testing.assert_close(moved, collapse_pyramid(coarsest, residuals) + 0.5)


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (1, 3, 8, 9), (3, 8, 8)])
def test_what_cannot_be_halved_is_refused(shape):
    with pytest.raises(ValueError, match="downsample takes images .* with even H and W, got"):
        downsample(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"got \(1, 1, 3, 3\)"):
        build_pyramid(torch.zeros(1, 1, 12, 12), 3)
