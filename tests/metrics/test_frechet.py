"""Fréchet distance: closed forms, order of corruptions, and what it refuses."""

import pytest
import torch

from fastgan.data import load, normalize
from fastgan.data.gaussian import Gaussian
from fastgan.metrics import FrechetDistance, RandomConvFeatures, frechet_distance, gaussian_statistics, symmetric_root


def random_covariance(dim: int, rank: int, seed: int) -> torch.Tensor:
    factor = torch.randn(dim, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T


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


def test_statistics_are_unbiased_and_in_float64():
    features = torch.tensor([[1.0, 2], [3, 4], [5, 0]])
    mean, cov = gaussian_statistics(features)
    assert mean.dtype == torch.float64 and mean.tolist() == [3, 2]
    assert cov.tolist() == [[4, -2], [-2, 4]]
    large = gaussian_statistics(features + 1e4)[1]
    assert torch.allclose(large, cov)
    with pytest.raises(ValueError, match="N >= 2"):
        gaussian_statistics(features[:1])


def test_frechet_names_a_wrong_shape_and_passes_nan_on():
    with pytest.raises(ValueError, match=r"cov2 takes shape \(2, 2\)"):
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(3))
    value = frechet_distance(torch.tensor([float("nan")]), torch.eye(1), torch.zeros(1), torch.eye(1))
    assert value != value


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (1, 28), (3, 16), (4, 65), (6, 7)])
def test_features_of_any_shape(channels, size):
    images = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = RandomConvFeatures(channels)(images)
    assert features.shape == (3, RandomConvFeatures.dim) and features.isfinite().all()
    assert not torch.equal(features[0], features[1])


def test_the_feature_net_is_always_the_same():
    state = torch.random.get_rng_state()
    first = RandomConvFeatures(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    second = RandomConvFeatures(3)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
    assert not list(first.parameters())
    # a fixed number: changing the net means giving it another name
    ramp = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    assert first(ramp).sum().item() == pytest.approx(RAMP_SUM, rel=1e-4)


RAMP_SUM = 101.86140823853202


@pytest.fixture(scope="module")
def scenes():
    real, other = (load("scenes", image_size=32, size=600, split=split) for split in ("train", "test"))
    return FrechetDistance(real, n=600), normalize(other.batch(range(600))["image"])


def test_corruptions_come_in_order(scenes):
    metric, images = scenes
    real = metric(images)
    blurred = metric(torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False))
    generator = torch.Generator().manual_seed(0)
    noise = metric(torch.rand(images.shape, generator=generator) * 2 - 1)
    assert 3 * real < blurred and 5 * blurred < noise


def test_collapse_and_layout_are_seen(scenes):
    metric, images = scenes
    real = metric(images)
    assert metric(images[:10].repeat(60, 1, 1, 1)) > 4 * real
    assert metric(images.flip(2)) > 10 * real  # sky below, ground above


def test_generate_is_called_for_n_images_and_equals_the_tensor(scenes):
    metric, images = scenes
    asked = []

    def generate(count):
        start = sum(asked)
        asked.append(count)
        return images[start : start + count]

    assert metric(generate) == pytest.approx(metric(images), rel=1e-6)
    assert asked == [256, 256, 88]
    assert metric.name == "frechet_random_conv_v1" and metric.lower_is_better


def test_the_real_side_is_measured_once_and_draws_no_randomness(scenes):
    metric, images = scenes
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = metric(images)
    statistics = metric._real
    assert metric(images) == first and metric._real is statistics
    assert FrechetDistance(metric.dataset, n=600)(images) == pytest.approx(first, rel=1e-9)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nan_images_give_nan_not_an_exception(scenes):
    metric, images = scenes
    assert metric(images * float("nan")) != metric(images)


def test_points_have_a_distance_too():
    data = Gaussian(500)
    metric = FrechetDistance(data, n=500)
    near = metric(Gaussian(500, seed=1).batch(range(500))["image"])
    far = metric(Gaussian(500, mean=2.0, seed=1).batch(range(500))["image"])
    assert 10 * near < far


def test_bad_input_is_named(scenes):
    metric, images = scenes
    dataset = metric.dataset
    with pytest.raises(ValueError, match=r"feature_net takes one of \['random_conv_v1'\], got 'inception'"):
        FrechetDistance(dataset, feature_net="inception")
    with pytest.raises(ValueError, match="at least 2 images on either side, got n=1"):
        FrechetDistance(dataset, n=1)
    with pytest.raises(ValueError, match="a data set of 1"):
        FrechetDistance(load("scenes", image_size=16, size=1))
    with pytest.raises(ValueError, match="images takes at least 2 images"):
        metric(images[:1])
    with pytest.raises(
        ValueError, match=r"images takes shape \(N, 3, 32, 32\) like the data set 'scenes', got \(256, 1, 32, 32\)"
    ):
        metric(images[:, :1])
    with pytest.raises(TypeError, match=r"images takes floating values in \[-1, 1\], got torch.uint8"):
        metric(dataset.batch([0, 1])["image"])
