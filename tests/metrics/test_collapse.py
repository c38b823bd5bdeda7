"""The collapse detector: real images pass, copies and single modes do not, and strangeness alone is no collapse."""

import pytest
import torch

from fastgan.data import load, normalize
from fastgan.data.gaussian import Gaussian
from fastgan.metrics import CollapseDetector
from fastgan.metrics.collapse import cluster


@pytest.fixture(scope="module")
def detector() -> CollapseDetector:
    return CollapseDetector(load("scenes", image_size=32, size=300))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return normalize(load("scenes", image_size=32, size=256, split="test").batch(range(256))["image"])


def noisy(images: torch.Tensor, by: float) -> torch.Tensor:
    return (images + by * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


def test_other_real_images_have_not_collapsed(detector, images):
    report = detector(images)
    assert not report.collapsed and str(report) == "no collapse"
    assert (
        15 <= report.samples.modes <= report.real.modes == 20
        and report.samples.placed > 0.9
        and report.real.placed == 1
    )
    assert report.samples.ms_ssim == pytest.approx(report.real.ms_ssim, abs=0.05)
    assert set(report.values()) == {"ms_ssim", "nearest[random_conv_v1]", "modes[random_conv_v1]"}


def test_one_image_with_a_little_noise_has_by_every_measure(detector, images):
    report = detector(noisy(images[:1].expand(256, -1, -1, -1), 0.02))
    assert report.collapsed and len(report.reasons) == 3 and report.samples.modes == 1
    assert str(report).startswith("collapsed: MS-SSIM between samples is 1.00, between real images 0.")
    assert report.as_dict()["collapsed"] and report.as_dict()["samples"]["modes"] == 1


def test_ten_images_repeated_have_by_their_neighbours(detector, images):
    report = detector(noisy(images[:10].repeat(26, 1, 1, 1)[:256], 0.05))
    assert any("nearest neighbour" in reason for reason in report.reasons)
    assert not any("MS-SSIM" in reason for reason in report.reasons)  # pairs seldom meet a copy


def test_one_cluster_of_real_images_has_by_its_modes(detector):
    images = normalize(load("scenes", image_size=32, size=300).batch(range(300))["image"])
    embedded = detector._embed(images)
    cell = torch.cdist(embedded, detector._centres).argmin(1)
    report = detector(images[cell < 6])  # six of twenty, each image another
    assert len(report.reasons) == 1 and report.reasons[0] == "samples hit 6 of the 20 clusters of real images"


def test_noise_is_no_collapse(detector, images):
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    report = detector(noise)
    assert report.samples.modes < 10 and report.samples.placed < 0.5 and not report.collapsed


def test_generate_is_asked_once_and_points_have_no_ms_ssim():
    detector, asked = CollapseDetector(Gaussian(100), n=60), []

    def generate(n):
        asked.append(n)
        return torch.zeros(n, 1, 1, 1)

    report = detector(generate)
    assert asked == [60] and report.collapsed and report.samples.ms_ssim is None
    assert "ms_ssim" not in report.values()


def test_clusters_of_separate_points_are_their_means():
    points = torch.tensor([[0.0, 0], [0, 2], [50, 50], [50, 52]]).double()
    assert sorted(cluster(points, 2).tolist()) == [[0, 1], [50, 51]]


def test_too_few_or_broken_images(detector, images):
    for broken in (images[:1], images * float("nan")):
        with pytest.raises(ValueError, match="at least 2 images, all of them finite"):
            detector(broken)
    with pytest.raises(ValueError, match="at least 40 samples and real images, got n=256 and a data set of 39"):
        CollapseDetector(load("scenes", image_size=16, size=39))
