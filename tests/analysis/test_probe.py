"""The linear probe against classifications whose answer is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan import registry
from fastgan.analysis.activations import discriminator
from fastgan.analysis.probe import PENALTIES, Fitting, conv_features, objective, probe, probe_all
from fastgan.data import load


def clusters(n: int, dim: int = 20, classes: int = 4, spread: float = 0.1, seed: int = 0):
    """Features (n, dim) around a centre for each class, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 3 * torch.eye(classes, dim)
    return centres[labels] + spread * torch.randn(n, dim, generator=generator), labels


def test_separable_classes_are_all_told_apart_though_features_are_of_any_scale():
    scales = torch.logspace(-3, 3, 20)
    (x, y), (test, test_y) = clusters(400), clusters(200, seed=1)
    result, svm = probe(x * scales + 5, y, test * scales + 5, test_y)
    assert result.accuracy == result.held_out == 1.0
    assert (result.dim, result.train_images, result.test_images) == (20, 400, 200)
    assert svm(test * scales + 5).shape == (200, 4)


def test_random_labels_are_learned_to_chance_only():
    generator = torch.Generator().manual_seed(0)
    x, test = torch.randn(600, 30, generator=generator), torch.randn(2000, 30, generator=generator)
    y, test_y = (torch.randint(5, (n,), generator=generator) for n in (600, 2000))
    result, _ = probe(x, y, test, test_y)
    assert abs(result.accuracy - 0.2) < 4 * (0.2 * 0.8 / 2000) ** 0.5


@pytest.mark.parametrize("penalty", [PENALTIES[0], PENALTIES[-1]])
def test_the_gradient_vanishes_at_the_solution_and_no_other_point_is_better(penalty):
    x, y = clusters(300, spread=1.5)
    x = (x @ torch.randn(20, 20, generator=torch.Generator().manual_seed(1))).double()  # correlated features
    fitting = Fitting(x, y, 4)
    svm = fitting.fit(penalty)
    weight, bias = (p.clone().requires_grad_() for p in (svm.weight, svm.bias))
    value = objective(fitting.x, fitting.signs, weight, bias, penalty)
    for gradient in torch.autograd.grad(value, (weight, bias)):
        assert gradient.abs().max() < 1e-4
    generator = torch.Generator().manual_seed(2)
    for size in (1e-2, 1e-1):
        moved = weight.detach() + size * torch.randn(weight.shape, generator=generator)
        assert objective(fitting.x, fitting.signs, moved, bias, penalty) > value
    begun_elsewhere = fitting.fit(penalty, start=fitting.fit(1.0))
    torch.testing.assert_close(begun_elsewhere.weight, svm.weight, rtol=1e-2, atol=1e-3)


def test_the_objective_by_hand():
    x, signs = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    weight, bias = torch.tensor([[2.0], [0.5]]), torch.tensor([0.0, -0.25])
    # scores (2, .25), (-2, -.75); slacks of image 0: 0, 1.25; of image 1: 0, 1.75
    expected = (1.25**2 + 1.75**2) / 2 + 0.1 * (4 + 0.25)
    assert objective(x, signs, weight, bias, 0.1).item() == pytest.approx(expected)


def test_one_feature_of_two_points_has_a_solution_in_closed_form():
    x, y = torch.tensor([[0.0], [2.0]] * 10, dtype=torch.float64), torch.tensor([0, 1] * 10)
    fitting = Fitting(x, y, 2)
    scale = fitting.scale.item()
    svm = fitting.fit(0.5)
    # standardised +-s with s = 1 / scale: minimise (1 - s w)^2 + .5 w^2, so w = s / (s^2 + .5); no bias
    s = 1 / scale
    torch.testing.assert_close(svm.weight.flatten(), torch.tensor([-1.0, 1.0]).double() * s / (s * s + 0.5))
    assert svm.bias.abs().max() < 1e-5
    assert svm.accuracy(x, y) == 1.0


def test_features_that_never_change_get_no_weight():
    x, y = clusters(200)
    x = torch.cat([x, torch.full((200, 1), 7.0)], 1)
    svm = Fitting(x, y, 4).fit(0.1)
    assert svm.weight.isfinite().all() and svm.weight[:, -1].abs().max() == 0
    assert svm.accuracy(x + F.one_hot(torch.tensor(20), 21) * 100.0, y) == 1.0


def test_features_are_the_largest_activations_of_a_4x4_grid():
    network = discriminator(registry.create("dcgan", image_size=16, ngf=2, ndf=4))
    x = torch.randn(2, 3, 16, 16)
    features = conv_features(network, x)
    first = F.leaky_relu(network.layers[0](x), 0.2)  # 8x8
    assert features.shape == (2, 16 * (4 + 8))
    torch.testing.assert_close(features[:, :64], first.view(2, 4, 4, 2, 4, 2).amax((3, 5)).flatten(1))


def test_the_three_probes_of_a_model_and_only_of_labelled_images():
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4)
    train, test = (load("scenes", image_size=16, size=60, split=split) for split in ("train", "test"))
    train.labels = train.labels.clone()
    train.labels[:20] = -1
    found = probe_all(model, train, test, seed=5)
    assert {what: (r.dim, r.train_images) for what, r in found.items()} == {
        "trained": (192, 40), "untrained": (192, 40), "pixels": (768, 40)
    }  # fmt: skip
    assert found["trained"] != found["untrained"] and model.training
    train.labels = None
    with pytest.raises(ValueError, match="the data 'scenes' has no labels"):
        probe_all(model, train, test)


def test_too_little_to_learn_from_is_refused():
    x, y = clusters(20)
    with pytest.raises(ValueError, match="at least 10 training images of 2 classes, got 20 of 1"):
        probe(x, torch.zeros_like(y), x, y)
