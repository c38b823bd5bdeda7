"""Fréchet distance and streamed moments: closed forms, and the same numbers however the batches fall."""

import pytest
import torch

from fastgan.metrics import Moments, frechet_distance, symmetric_root


def random_covariance(dim: int, rank: int, seed: int) -> torch.Tensor:
    factor = torch.randn(dim, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T


def moments(*batches: torch.Tensor) -> Moments:
    found = Moments()
    for batch in batches:
        found.update(batch)
    return found


def test_one_dimension_is_the_formula():
    # (m1 - m2)^2 + (s1 - s2)^2
    value = frechet_distance(torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([-2.0]), torch.tensor([[9.0]]))
    assert value == pytest.approx(9 + 1)


def test_commuting_covariances_are_a_sum_over_axes():
    basis = torch.linalg.qr(random_covariance(6, 6, 0)).Q
    a, b = torch.tensor([1.0, 2, 3, 0, 0, 5]).double(), torch.tensor([2.0, 2, 0, 4, 0, 1]).double()
    mean = torch.zeros(6)
    # zero eigenvalues come back as rounding, 1e-16, and their roots as 1e-8
    value = frechet_distance(mean, basis * a @ basis.T, mean + 0.5, basis * b @ basis.T)
    assert value == pytest.approx(6 * 0.25 + (a.sqrt() - b.sqrt()).square().sum().item(), abs=1e-6)


def test_two_by_two_that_do_not_commute():
    a, b = torch.tensor([[2.0, 1], [1, 3]]), torch.tensor([[1.0, -0.5], [-0.5, 2]])
    # trace of the root of a 2 x 2 matrix M with positive eigenvalues: sqrt(tr M + 2 sqrt(det M))
    product = a.double() @ b.double()
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt().item()
    value = frechet_distance(torch.zeros(2), a, torch.zeros(2), b)
    assert value == pytest.approx(2 + 3 + 1 + 2 - 2 * root, rel=1e-9)


@pytest.mark.parametrize("rank", [0, 1, 5, 20])
def test_equal_gaussians_are_at_zero_and_a_shift_counts_alone(rank):
    mean, cov = torch.randn(20, generator=torch.Generator().manual_seed(1)), random_covariance(20, rank, 2)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(mean, cov, mean + 2, cov) == pytest.approx(80, rel=1e-6)


def test_singular_covariances_in_orthogonal_directions():
    a, b = torch.diag(torch.tensor([4.0, 0, 0])), torch.diag(torch.tensor([0.0, 9, 0]))
    assert frechet_distance(torch.zeros(3), a, torch.zeros(3), b) == pytest.approx(13)


@pytest.mark.parametrize("rank", [0, 3, 8])
def test_root_squares_to_the_matrix(rank):
    cov = random_covariance(8, rank, 5)
    root = symmetric_root(cov)
    assert torch.allclose(root @ root, cov, atol=1e-9) and torch.allclose(root, root.T, atol=1e-9)
    mean, other = torch.zeros(8), random_covariance(8, 8, 6)
    assert frechet_distance(mean, cov, mean, other, root1=root) == frechet_distance(mean, cov, mean, other)


def test_distance_is_symmetric():
    a, b, mean = random_covariance(12, 4, 0), random_covariance(12, 9, 1), torch.arange(12.0)
    forth, back = frechet_distance(mean, a, -mean, b), frechet_distance(-mean, b, mean, a)
    assert forth == pytest.approx(back, rel=1e-9)


def test_frechet_names_a_wrong_shape_and_passes_nan_on():
    with pytest.raises(ValueError, match=r"cov2 takes shape \(2, 2\)"):
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(3))
    value = frechet_distance(torch.tensor([float("nan")]), torch.eye(1), torch.zeros(1), torch.eye(1))
    assert value != value


# -- moments -----------------------------------------------------------------------------------------------------------


def test_moments_are_unbiased_and_in_float64():
    features = torch.tensor([[1.0, 2], [3, 4], [5, 0]])
    found = moments(features)
    assert found.mean.dtype == torch.float64 and found.mean.tolist() == [3, 2]
    assert found.covariance.tolist() == [[4, -2], [-2, 4]]
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        _ = moments(features[:1]).covariance


@pytest.mark.parametrize("sizes", [[300], [1] * 300, [299, 1], [128, 128, 44], [0, 300, 0]])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_any_split_gives_the_same_moments(sizes, offset):
    # about 1e6 a sum of squares in float64 would keep four digits of a variance of 1
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    found = moments(*features.split(sizes))
    assert found.count == 300
    assert torch.allclose(found.mean, features.mean(0), rtol=1e-14, atol=1e-14)
    assert torch.allclose(found.covariance, torch.cov((features - offset).T), rtol=0, atol=1e-9)
