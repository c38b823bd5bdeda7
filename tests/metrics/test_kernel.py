"""KID: against the quadratic formula written as loops, about zero for equal distributions, whatever the number."""

import pytest
import torch

from fastgan.metrics import kernel_distance, squared_mmd


def gaussian(n: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def by_loops(x: list[list[float]], y: list[list[float]]) -> float:
    def k(a: list[float], b: list[float]) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_two_points_by_hand():
    # D = 1; k(0, 2) = 1, k(1, 1) = 8; across: k(0, 1) = 1 twice, k(2, 1) = 27 twice: mean 14
    assert squared_mmd(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])) == pytest.approx(1 + 8 - 2 * 14)


def test_the_quadratic_formula():
    x, y = gaussian(13, 4, 0), gaussian(9, 4, 1, shift=0.5)
    assert squared_mmd(x, y) == pytest.approx(by_loops(x.tolist(), y.tolist()), rel=1e-12)
    # one subset of everything is the formula itself
    assert kernel_distance(x, y, subsets=1, subset_size=9)[1] == 0
    assert kernel_distance(y, x[:9], subsets=3, subset_size=9)[0] == pytest.approx(squared_mmd(y, x[:9]), rel=1e-12)


def test_equal_distributions_are_at_zero_within_the_deviation():
    mean, std = kernel_distance(gaussian(1000, 8, 0), gaussian(1000, 8, 1), subset_size=100)
    assert abs(mean) < std and std > 0
    near, deviation = kernel_distance(gaussian(1000, 8, 0), gaussian(1000, 8, 1, shift=0.5), subset_size=100)
    assert near > 5 * deviation


def test_small_sets_are_not_biased():
    # the mean over many draws of 8 against 8 is that of large sets: 0; a biased estimate would be near 2 k(x, x) / 8
    values = [squared_mmd(gaussian(8, 4, 2 * seed), gaussian(8, 4, 2 * seed + 1)) for seed in range(400)]
    mean, error = torch.tensor(values).mean().item(), torch.tensor(values).std().item() / 20
    assert abs(mean) < 3 * error


def test_the_draw_is_seeded_and_leaves_torch_alone():
    x, y = gaussian(60, 4, 0), gaussian(60, 4, 1)
    state = torch.random.get_rng_state()
    assert kernel_distance(x, y) == kernel_distance(x, y) != kernel_distance(x, y, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_too_few_images():
    with pytest.raises(ValueError, match="at least 4 images on either side, got 3 and 9"):
        kernel_distance(gaussian(3, 2, 0), gaussian(9, 2, 1))
    with pytest.raises(ValueError, match="at least 10 images on either side, got 12 and 9"):
        kernel_distance(gaussian(12, 2, 0), gaussian(9, 2, 1), subset_size=10)
