"""Mode coverage of mixtures and classes, counted by hand."""

import math

import pytest
import torch

from fastgan.metrics import class_coverage, mixture_coverage

GRID = torch.cartesian_prod(torch.arange(-2.0, 3), torch.arange(-2.0, 3))  # 25 centres


def test_three_of_four_by_hand():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    # two at the first, one at the edge of the second, one too far from the third, none at the fourth
    points = torch.tensor([[0.0, 0], [1, 0], [10, 3], [0, 13.1]])
    found = mixture_coverage(points, centres, std=1.0)
    assert (found.modes, found.total, found.high_quality) == (2, 4, 0.75)
    # shares 1/2, 1/4, 1/4, 0 against 1/4 each
    assert found.kl == pytest.approx(0.5 * math.log(2))
    assert str(found).startswith("2 of 4 modes, 75.0% of the samples of high quality")


def test_perfect_samples_of_25_gaussians():
    generator = torch.Generator().manual_seed(0)
    points = GRID.repeat(100, 1) + 0.05 * torch.randn(2500, 2, generator=generator)
    found = mixture_coverage(points, GRID, std=0.05)
    assert found.modes == 25 and found.kl == pytest.approx(0, abs=1e-12)
    # within 3 standard deviations in the plane: 1 - exp(-9 / 2)
    assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.01)
    collapsed = mixture_coverage(points[::25], GRID, std=0.05)
    assert collapsed.modes == 1 and collapsed.kl == pytest.approx(math.log(25))


def test_unequal_modes():
    centres, weights = torch.tensor([[0.0], [1.0]]), torch.tensor([3.0, 1.0])
    points = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    assert mixture_coverage(points, centres, 0.1, weights=weights).kl == pytest.approx(0, abs=1e-12)


def test_classes():
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [0.0, 0.1, 0]])
    found = class_coverage(logits, confidence=0.9)
    assert (found.modes, found.total, found.high_quality) == (2, 3, 0.75)
    assert found.kl == pytest.approx(math.log(3) - math.log(2))  # halves against thirds
    assert class_coverage(logits).high_quality == 1


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"points takes \(N, D\) and centres \(K, D\), got \(3, 1\) and \(25, 2\)"):
        mixture_coverage(torch.zeros(3, 1), GRID, 0.1)
    with pytest.raises(ValueError, match="at least one sample"):
        mixture_coverage(torch.zeros(0, 2), GRID, 0.1)
    with pytest.raises(ValueError, match="weights takes 2 positive numbers"):
        class_coverage(torch.zeros(3, 2), weights=torch.tensor([1.0, 0.0]))
