"""Perceptual distance: by loops, zero for equal images, and nearer for a blur of the same than for another image."""

import pytest
import torch

from fastgan.data import load, normalize
from fastgan.metrics import PerceptualDistance, load_features


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance(load_features("random_conv_v1", 3))


def test_by_loops(distance):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 3, 6, 5, generator=generator) * 2 - 1 for _ in range(2))
    expected = 0.0
    for x, y in zip(distance.net.maps(a), distance.net.maps(b), strict=True):
        x, y = x[0].double(), y[0].double()
        places = [(i, j) for i in range(x.shape[1]) for j in range(x.shape[2])]
        for i, j in places:
            u, v = x[:, i, j], y[:, i, j]
            u, v = u / (u.square().sum() + 1e-10).sqrt(), v / (v.square().sum() + 1e-10).sqrt()
            expected += (u - v).square().sum().item() / len(places)
    assert distance(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_order_and_name(distance):
    images = normalize(load("scenes", image_size=32, size=16).batch(range(16))["image"])
    noisy = (images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    assert distance(images, images).tolist() == [0] * 16
    assert (distance(images, noisy) < distance(images, images.roll(1, 0))).all()
    assert distance.name == "perceptual[random_conv_v1]"


def test_gradients_reach_the_images_not_the_net(distance):
    a = torch.zeros(2, 3, 16, 16, requires_grad=True)  # dead units: the length of a zero vector has no gradient
    distance(a, torch.rand(2, 3, 16, 16)).sum().backward()
    assert a.grad.isfinite().all() and a.grad.abs().sum() > 0


def test_shapes_are_checked(distance):
    with pytest.raises(ValueError, match=r"perceptual\[random_conv_v1\] takes two batches of images of one shape"):
        distance(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8))
