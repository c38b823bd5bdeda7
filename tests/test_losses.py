"""Losses against numbers worked out by hand, with their gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan import losses
from fastgan.ops import gradient_penalty

LOG3 = math.log(3.0)


def logits(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[list[float]]:
    return [g.tolist() for g in torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("loss", [losses.minimax_discriminator, losses.non_saturating_discriminator])
def test_discriminator(loss):
    real, fake = logits(0.0, LOG3), logits(0.0, -LOG3)  # D(real) = 1/2, 3/4; D(fake) = 1/2, 1/4
    value = loss(real, fake)
    assert value.shape == ()
    # -(log 1/2 + log 3/4) / 2, twice: by symmetry the fake half is the same
    assert value.item() == pytest.approx(math.log(8 / 3), abs=1e-12)
    grad_real, grad_fake = gradients(value, real, fake)
    assert grad_real == pytest.approx([-1 / 4, -1 / 8])  # (D - 1) / n
    assert grad_fake == pytest.approx([1 / 4, 1 / 8])  # D / n


def test_discriminator_that_knows_nothing_pays_2_log_2():
    assert losses.minimax_discriminator(logits(0.0, 0.0, 0.0), logits(0.0)).item() == pytest.approx(2 * math.log(2))


def test_minimax_generator():
    fake = logits(0.0, -LOG3)
    value = losses.minimax_generator(fake)
    assert value.item() == pytest.approx(0.5 * math.log(3 / 8), abs=1e-12)  # (log 1/2 + log 3/4) / 2
    assert gradients(value, fake)[0] == pytest.approx([-1 / 4, -1 / 8])  # -D / n


def test_non_saturating_generator():
    fake = logits(0.0, -LOG3)
    value = losses.non_saturating_generator(fake)
    assert value.item() == pytest.approx(1.5 * math.log(2), abs=1e-12)  # -(log 1/2 + log 1/4) / 2
    assert gradients(value, fake)[0] == pytest.approx([-1 / 4, -3 / 8])  # (D - 1) / n


def test_minimax_saturates_and_non_saturating_does_not():
    fake = logits(-20.0)
    assert abs(gradients(losses.minimax_generator(fake), fake)[0][0]) < 1e-8
    assert gradients(losses.non_saturating_generator(fake), fake)[0][0] == pytest.approx(-1.0, abs=1e-8)


def test_wasserstein():
    real, fake = logits(1.0, 3.0), logits(0.0, -2.0, -4.0, 2.0)
    value = losses.wasserstein_critic(real, fake)
    assert value.item() == -1.0 - 2.0
    assert gradients(value, real, fake) == [[-1 / 2, -1 / 2], [1 / 4, 1 / 4, 1 / 4, 1 / 4]]
    value = losses.wasserstein_generator(fake)
    assert value.item() == 1.0
    assert gradients(value, fake) == [[-1 / 4] * 4]


def test_least_squares():
    real, fake = logits(0.0, 3.0), logits(1.0, -1.0)
    value = losses.least_squares_discriminator(real, fake)
    # 1/2 ((0 - 1)^2 + (3 - 1)^2) / 2 + 1/2 (1^2 + (-1)^2) / 2 = 1/2 5/2 + 1/2
    assert value.item() == 1.75
    assert gradients(value, real, fake) == [[-1 / 2, 1.0], [1 / 2, -1 / 2]]  # (D - label) / n
    value = losses.least_squares_generator(fake)
    assert value.item() == 0.5 * (0.0 + 4.0) / 2
    assert gradients(value, fake) == [[0.0, -1.0]]  # (D - 1) / n
    # Pearson's labels a = -1, b = 1, c = 0: 1/2 (1 + 4) / 2 + 1/2 (4 + 0) / 2, and 1/2 (1 + 1) / 2
    assert losses.least_squares_discriminator(real, fake, a=-1.0, b=1.0).item() == 1.25 + 1.0
    assert losses.least_squares_generator(fake, c=0.0).item() == 0.5


def test_hinge():
    real, fake = logits(0.5, 3.0), logits(-2.0, 1.0, -0.5, -1.5)
    value = losses.hinge_discriminator(real, fake)
    assert value.item() == (0.5 + 0.0) / 2 + (0.0 + 2.0 + 0.5 + 0.0) / 4
    assert gradients(value, real, fake) == [[-1 / 2, 0.0], [0.0, 1 / 4, 1 / 4, 0.0]]
    value = losses.hinge_generator(fake)
    assert value.item() == 3.0 / 4
    assert gradients(value, fake) == [[-1 / 4] * 4]


def test_relativistic():
    real, fake = logits(LOG3, 0.0), logits(0.0, LOG3)  # differences log 3 and -log 3: sigmoids 3/4 and 1/4
    value = losses.relativistic_discriminator(real, fake)
    assert value.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2, abs=1e-12)
    grad_real, grad_fake = gradients(value, real, fake)
    assert grad_real == pytest.approx([-1 / 8, -3 / 8])  # (sigmoid - 1) / n
    assert grad_fake == pytest.approx([1 / 8, 3 / 8])
    swapped = losses.relativistic_generator(fake, real)  # sigmoids of fake - real: 1/4 and 3/4
    assert swapped.item() == pytest.approx(value.item(), abs=1e-12)
    grad_real, grad_fake = gradients(swapped, real, fake)
    assert grad_real == pytest.approx([3 / 8, 1 / 8])
    assert grad_fake == pytest.approx([-3 / 8, -1 / 8])
    with pytest.raises(ValueError, match=r"real_logits has shape \(2,\) and fake_logits \(3,\); pairs take one shape"):
        losses.relativistic_discriminator(real, logits(0.0, 0.0, 0.0))


def test_relativistic_average():
    real, fake = logits(2 * LOG3, 0.0), logits(0.0, 0.0, 0.0)  # means log 3 and 0
    value = losses.relativistic_average_discriminator(real, fake)
    # real - 0: sigmoids 9/10 and 1/2; fake - log 3: sigmoid 1/4, so that 1 - sigmoid is 3/4
    assert value.item() == pytest.approx(-(math.log(9 / 10) + math.log(1 / 2)) / 2 - math.log(3 / 4), abs=1e-12)
    grad_real, grad_fake = gradients(value, real, fake)
    # (sigmoid - 1) / 2 of its own term, and - 1/4 / 2 as its share in the mean of the other
    assert grad_real == pytest.approx([-1 / 20 - 1 / 8, -1 / 4 - 1 / 8])
    # 1/4 / 3 of its own term, and (1/10 + 1/2) / 2 / 3 as its share in the mean of the other
    assert grad_fake == pytest.approx([1 / 12 + 1 / 10] * 3)
    value = losses.relativistic_average_generator(fake, real)
    # fake - log 3: sigmoid 1/4; real - 0: sigmoids 9/10 and 1/2
    assert value.item() == pytest.approx(-math.log(1 / 4) - (math.log(1 / 10) + math.log(1 / 2)) / 2, abs=1e-12)
    grad_real, grad_fake = gradients(value, real, fake)
    assert grad_real == pytest.approx([9 / 20 + 3 / 8, 1 / 4 + 3 / 8])
    assert grad_fake == pytest.approx([-(1 / 4 + 7 / 30)] * 3)  # 3/4 / 3, and (9/10 + 1/2) / 2 / 3


def test_label_smoothing_is_one_sided():
    real, fake = logits(LOG3), logits(LOG3)  # D = 3/4 of both
    value = losses.non_saturating_discriminator(real, fake, label_smoothing=0.1)
    # real: -9/10 log 3/4 - 1/10 log 1/4; fake, whose label stays 0: -log 1/4
    expected = -0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4) - math.log(1 / 4)
    assert value.item() == pytest.approx(expected, abs=1e-12)
    assert gradients(value, real, fake) == [[pytest.approx(3 / 4 - 9 / 10)], [pytest.approx(3 / 4)]]  # D - label
    real, fake = logits(2.0), logits(2.0)
    value = losses.least_squares_discriminator(real, fake, label_smoothing=0.25)
    assert value.item() == 0.5 * (2.0 - 0.75) ** 2 + 0.5 * 2.0**2
    # between a = -1 and b = 1 a quarter of the way is 1/2
    value = losses.least_squares_discriminator(real, fake, label_smoothing=0.25, a=-1.0, b=1.0)
    assert value.item() == 0.5 * 1.5**2 + 0.5 * 3.0**2


def test_label_flip():
    real, fake = logits(LOG3, 2.0), logits(-1.0)
    swapped = losses.minimax_discriminator(fake, real).item()
    assert losses.minimax_discriminator(real, fake, label_flip=1.0).item() == pytest.approx(swapped)
    both = losses.minimax_discriminator(real, fake, 0.1, 1.0)  # a flipped fake has the smoothed label, a real one 0
    expected = F.softplus(real).mean() + (0.9 * F.softplus(-fake) + 0.1 * F.softplus(fake)).mean()
    assert both.item() == pytest.approx(expected.item())
    torch.manual_seed(0)
    zeros = torch.zeros(4000, 1, 3, 3)
    value = losses.least_squares_discriminator(zeros, zeros.requires_grad_(), label_flip=0.3)
    told = torch.autograd.grad(value, zeros)[0] * -zeros.numel()  # of real and fake together: label_r + label_f
    images = told[:, 0].flatten(1).round()
    assert torch.equal(images.amin(1), images.amax(1)), "one label an image, whatever its map of logits"
    # real is told 0, fake is told 1, each with probability 3/10
    shares = [(images[:, 0] == count).double().mean().item() for count in (0, 1, 2)]
    assert shares == pytest.approx([0.3 * 0.7, 0.3**2 + 0.7**2, 0.3 * 0.7], abs=0.03)  # 4 deviations of 4000 draws


@pytest.mark.parametrize("name", ["label_smoothing", "label_flip"])
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_from_0_to_1(name, share):
    with pytest.raises(ValueError, match=f"{name} takes a share from 0 to 1"):
        losses.minimax_discriminator(logits(0.0), logits(0.0), **{name: share})


def sides(name: str):
    """Both functions of a table's row, on (real, fake)."""
    row = losses.LOSSES[name]
    yield row.discriminator
    yield (lambda real, fake: row.generator(fake, real)) if row.relativistic else lambda real, fake: row.generator(fake)
    if row.labels:
        yield lambda real, fake: row.discriminator(real, fake, label_smoothing=0.1, label_flip=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", list(losses.LOSSES))
def test_finite_at_any_logit(name, dtype):
    """+-1e4 is where exp and log of a probability have long been 0 or infinite."""
    for side in sides(name):
        real, fake = logits(-1e4, 1e4, dtype=dtype), logits(1e4, -1e4, dtype=dtype)
        value = side(real, fake)
        assert value.dtype == torch.float32 and torch.isfinite(value)
        grads = torch.autograd.grad(value, (real, fake), allow_unused=True)
        assert any(g is not None and g.any() for g in grads)
        assert all(torch.isfinite(g).all() for g in grads if g is not None)


def test_values_at_extreme_logits():
    real, fake = logits(-1e4, 1e4, dtype=torch.float32), logits(1e4, -1e4, dtype=torch.float32)
    for value, expected in [
        (losses.minimax_discriminator(real, fake), 1e4),
        (losses.minimax_generator(fake), -5e3),
        (losses.non_saturating_generator(fake), 5e3),
        (losses.relativistic_discriminator(real, fake), 1e4),  # log(1 + e^20000) / 2
        (losses.relativistic_average_discriminator(real, fake), 1e4),  # both means are 0
        (losses.least_squares_discriminator(real, fake), 0.5 * 1e8 + 0.5 * 1e8 + 0.5),
        (losses.hinge_discriminator(real, fake), 1e4 + 1.0),
    ]:
        assert value.item() == pytest.approx(expected, rel=1e-6)


def test_shape_does_not_matter():
    real, fake = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    for loss in (losses.minimax_discriminator, losses.wasserstein_critic):
        torch.testing.assert_close(loss(real, fake), loss(real.flatten(), fake.flatten()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reduced_in_float32(dtype):
    real, fake = torch.randn(257), torch.randn(257)
    value = losses.minimax_discriminator(real.to(dtype), fake.to(dtype))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, losses.minimax_discriminator(real.to(dtype).float(), fake.to(dtype).float()))
    # 2048 + 1 is no half-precision number, their mean in float32 is exact
    assert losses.wasserstein_generator(torch.tensor([2048.0, 1.0], dtype=dtype)).item() == -1024.5


def test_second_derivatives():
    real, fake = (
        torch.randn(3, dtype=torch.float64, requires_grad=True),
        torch.randn(3, dtype=torch.float64, requires_grad=True),
    )
    for name in losses.LOSSES:
        discriminator, generator, *_ = sides(name)
        assert torch.autograd.gradgradcheck(discriminator, (real, fake)), name
        assert torch.autograd.gradgradcheck(generator, (real, fake)), name


@pytest.mark.parametrize(
    "loss",
    [
        losses.minimax_generator,
        losses.non_saturating_generator,
        losses.least_squares_generator,
        losses.wasserstein_generator,
        losses.hinge_generator,
    ],
)
def test_bad_input_is_named(loss):
    with pytest.raises(TypeError, match="fake_logits takes a floating-point tensor, got torch.int64"):
        loss(torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="fake_logits takes a floating-point tensor, got float"):
        loss(0.5)
    with pytest.raises(ValueError, match=r"fake_logits is empty \(shape \(0, 1\)\)"):
        loss(torch.zeros(0, 1))


# -- penalties ---------------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """D(x) = 1/2 x' A x + b' x, whose gradient is (A + A') x / 2 + b."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a = nn.Parameter(torch.randn(3, 3, dtype=torch.float64, generator=generator))
        self.b = nn.Parameter(torch.randn(3, dtype=torch.float64, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((x @ self.a) * x).sum(1) + x @ self.b


POINTS = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def slopes(critic: Quadratic, x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x @ (critic.a + critic.a.T) + critic.b


@pytest.mark.parametrize("penalty", [losses.r1_penalty, losses.r2_penalty])
def test_r1_and_r2_of_a_quadratic_critic(penalty):
    critic = Quadratic()
    value = penalty(critic, POINTS, weight=3.0)
    expected = 1.5 * slopes(critic, POINTS).square().sum(1).mean()
    torch.testing.assert_close(value, expected)
    parameters = list(critic.parameters())
    ours = torch.autograd.grad(value, parameters, create_graph=True)
    exact = torch.autograd.grad(expected, parameters, create_graph=True)
    torch.testing.assert_close(ours, exact)
    # and once more: R1's own second derivative, as meta-learning or a Hessian product takes it
    twice = [torch.autograd.grad(sum(g.square().sum() for g in gs), parameters) for gs in (ours, exact)]
    torch.testing.assert_close(*twice)


def test_gradcheck_of_r1():
    critic = Quadratic()

    def value(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return losses.r1_penalty(lambda x: torch.func.functional_call(critic, {"a": a, "b": b}, (x,)), POINTS)

    parameters = [p.detach().clone().requires_grad_() for p in critic.parameters()]
    assert torch.autograd.gradcheck(value, parameters)
    assert torch.autograd.gradgradcheck(value, parameters)


@pytest.mark.parametrize("method", ["analytic", "autograd"])
def test_penalties_of_a_linear_critic(method):
    critic = nn.Linear(2, 1).double()
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[3.0, 4.0]]))  # norm 5 everywhere
    x = POINTS[:, :2]
    for value, expected, scale in [
        (losses.r1_penalty(critic, x, 10.0, method=method), 5.0 * 25.0, 10.0),  # gamma w
        (losses.r2_penalty(critic, x, 10.0, method=method), 5.0 * 25.0, 10.0),
        (losses.dragan_penalty(critic, x, 10.0, method=method), 10.0 * 16.0, 16.0),  # 2 lambda (5 - 1) w / 5
    ]:
        assert value.item() == pytest.approx(expected, rel=1e-12)
        (grad,) = torch.autograd.grad(value, critic.weight)
        assert grad.flatten().tolist() == pytest.approx([3.0 * scale, 4.0 * scale], rel=1e-12)


def test_r1_at_a_flat_point_has_no_nan():
    """The norm's derivative at 0 is where other code divides 0 by 0."""
    critic = nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1)).double()
    nn.init.zeros_(critic[2].weight)
    for method in ("analytic", "autograd"):
        value = losses.r1_penalty(critic, POINTS[:, :2], method=method)
        grads = torch.autograd.grad(value, [critic[0].weight, critic[2].weight])
        assert value == 0.0 and not any(g.any() for g in grads)


def test_r1_takes_the_analytic_path_where_it_is_exact():
    critic = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1)).double()
    real = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    by = {}
    for method in ("auto", "analytic", "autograd"):
        value = losses.r1_penalty(critic, real, method=method)
        by[method] = [value.detach(), *torch.autograd.grad(value, [critic[0].weight, critic[3].weight])]
    torch.testing.assert_close(by["analytic"], by["autograd"])
    assert all(torch.equal(a, b) for a, b in zip(by["auto"], by["analytic"], strict=True))


def test_dragan_looks_around_the_real_images():
    seen = []

    class Watcher(Quadratic):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach())
            return super().forward(x)

    critic = Watcher()
    torch.manual_seed(3)
    value = losses.dragan_penalty(critic, POINTS, 2.0, target=1.5, scale=0.5, method="autograd")
    (x,) = seen
    offset = (x - POINTS) / POINTS.std()
    assert (offset >= 0).all() and (offset <= 0.5).all() and offset.std() > 0
    norms = slopes(critic, x).norm(dim=1)
    torch.testing.assert_close(value, 2.0 * (norms - 1.5).square().mean())
    torch.manual_seed(3)  # the same draws through the penalty that it is made of
    perturbed = POINTS + 0.5 * POINTS.std() * torch.rand_like(POINTS)
    assert torch.equal(value, gradient_penalty(critic, POINTS, perturbed, 2.0, 1.5, method="autograd"))


# -- classes -----------------------------------------------------------------------------------------------------------

LOG2 = math.log(2.0)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_labelled_cross_entropy_looks_at_labels_alone():
    classes, labels = rows([LOG3, 0.0], [5.0, -3.0], [0.0, 0.0]), torch.tensor([0, -1, 1])
    value = losses.labelled_cross_entropy(classes, labels)
    assert value.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)
    assert gradients(value, classes)[0][1] == [0.0, 0.0]
    none = losses.labelled_cross_entropy(classes, torch.tensor([-1, -1, -1]))
    assert none.item() == 0.0 and not torch.autograd.grad(none, classes)[0].any()


def test_class_evidence_is_the_logit_of_one_more_class():
    classes = rows([LOG2, 0.0], [0.0, 0.0])  # Z = 3 and 2: D = 3/4 and 2/3
    assert losses.class_evidence(classes).sigmoid().tolist() == pytest.approx([3 / 4, 2 / 3])
    all_classes = torch.cat([classes, torch.zeros(2, 1)], 1).softmax(1)
    assert torch.allclose(1 - all_classes[:, -1], losses.class_evidence(classes).sigmoid())
    assert losses.class_evidence(rows([1000.0, 0.0])).tolist() == [1000.0]


def test_semi_supervised_discriminator():
    real, fake = rows([LOG2, 0.0], [0.0, 0.0]), rows([-LOG2, -LOG2])  # D = 3/4, 2/3; 1/2
    supervised, unsupervised = losses.semi_supervised_discriminator(real, fake, torch.tensor([0, -1]))
    assert supervised.item() == pytest.approx(-math.log(2 / 3))
    assert unsupervised.item() == pytest.approx(-0.5 * math.log(2 / 3) - 0.5 * math.log(1 / 2))
    (gradient,) = torch.autograd.grad(unsupervised, real, retain_graph=True)
    assert gradient.tolist() == [[0.0, 0.0], pytest.approx([-1 / 12, -1 / 12])]  # 1/2 (D - 1) p_k, of the unlabelled
    _, unsupervised = losses.semi_supervised_discriminator(real, fake, torch.tensor([0, 1]))
    assert unsupervised.item() == pytest.approx(-0.25 * math.log(3 / 4 * 2 / 3) - 0.5 * math.log(1 / 2))
    _, smooth = losses.semi_supervised_discriminator(real, fake, torch.tensor([0, -1]), label_smoothing=0.1)
    expected = -0.5 * (0.9 * math.log(2 / 3) + 0.1 * math.log(1 / 3)) - 0.5 * math.log(1 / 2)
    assert smooth.item() == pytest.approx(expected)


def test_feature_matching():
    real, fake = rows([1.0, 2.0], [3.0, 2.0]), rows([0.0, 0.0], [2.0, 2.0])  # means (2, 2) and (1, 1)
    value = losses.feature_matching(real, fake)
    assert value.item() == 1.0
    assert gradients(value, fake)[0] == [[-0.5, -0.5], [-0.5, -0.5]]  # 2 (1 - 2) / F / M
    assert losses.feature_matching(real, fake, torch.tensor([4, -1])).item() == (2.0**2 + 1.0**2) / 2
    assert not losses.feature_matching(real, fake.detach()).requires_grad


def test_conditional_entropy():
    assert losses.conditional_entropy(rows([0.0, 0.0], [50.0, -50.0])).item() == pytest.approx(LOG2 / 2)


# -- perturbations -----------------------------------------------------------------------------------------------------


def test_fast_gradient_sign_of_a_linear_classifier():
    weight = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    x = torch.tensor([[0.0, 0.5, 0.3], [0.9, 0.0, 0.0], [0.1, 0.2, 0.3]])
    # cross-entropy of class 0 grows against weight[0], that of class 1 along it; pixels end at 1; no label, no change
    moved = losses.fast_gradient_sign(lambda x: x @ weight.T, x, torch.tensor([0, 1, -1]), 0.25)
    expected = torch.tensor([[-0.25, 0.75, 0.3], [1.0, -0.25, 0.0], [0.1, 0.2, 0.3]])
    assert torch.allclose(moved, expected) and not moved.requires_grad
    r = losses.fast_gradient(lambda x: x @ weight.T, x, torch.tensor([0, 1, -1]), 5.0)
    unit = torch.tensor([1.0, -2.0, 0.0]) / math.sqrt(5)
    assert torch.allclose(r, 5 * torch.stack([-unit, unit, 0 * unit]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_virtual_adversarial_loss_of_a_linear_classifier(dtype):
    """Two classes whose logits differ by w x: KL grows along w alone, whatever direction the search began at."""
    weight = torch.zeros(2, 4, dtype=dtype)
    weight[0] = torch.tensor([3.0, 0.0, 4.0, 0.0])
    weight.requires_grad_()
    x = torch.zeros(3, 4, dtype=dtype)  # p = 1/2
    value = losses.virtual_adversarial_loss(lambda x: x @ weight.T, x, epsilon=LOG3 / 5)
    # |w| epsilon = log 3: q = 3/4 or 1/4 of class 0, and KL(1/2 || 3/4) = 1/2 log(4/3)
    assert value.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-4)
    class_logits = (x @ weight.T).detach().requires_grad_()
    value = losses.virtual_adversarial_loss(lambda x: x @ weight.T, x, LOG3 / 5, class_logits=class_logits)
    gradient, through_p = torch.autograd.grad(value, (weight, class_logits), allow_unused=True)
    assert gradient.abs().max() > 0.01 and through_p is None, "p(. | x) is what the answer should stay"


def test_virtual_adversarial_loss_leaves_the_classifier_as_it_was():
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x, before = torch.randn(6, 3), {k: v.clone() for k, v in classifier.state_dict().items()}
    random = losses.virtual_adversarial_loss(classifier, x, 1.0, iterations=1)
    losses.fast_gradient_sign(classifier, x, torch.zeros(6, dtype=torch.int64), 0.1)
    assert all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items())
    assert all(p.grad is None for p in classifier.parameters()) and random.requires_grad


def test_categorical_information():
    q = logits(math.log(0.5), math.log(0.25), math.log(0.25), 0.0, 0.0, 0.0).reshape(2, 1, 3)
    value = losses.categorical_information(q, torch.tensor([[[1.0, 0, 0]], [[0, 0, 1.0]]], dtype=torch.float64))
    assert value.shape == ()
    assert value.item() == pytest.approx(math.log(3) + 0.5 * (math.log(1 / 2) + math.log(1 / 3)), abs=1e-12)
    assert gradients(value, q)[0] == [
        [pytest.approx([1 / 4, -1 / 8, -1 / 8])],  # (code - softmax) / n
        [pytest.approx([-1 / 6, -1 / 6, 1 / 3])],
    ]
    # codes of an image add up
    twice = losses.categorical_information(q.repeat(1, 2, 1), torch.tensor([[[1.0, 0, 0]] * 2, [[0, 0, 1.0]] * 2]))
    assert twice.item() == pytest.approx(2 * value.item())


def test_uniform_information():
    mean, log_std = logits(0.0, 0.5).reshape(1, 2), logits(0.0, math.log(0.25)).reshape(1, 2)
    code = torch.tensor([[1.0, 0.5]], dtype=torch.float64)  # one deviation away, and met
    value = losses.uniform_information(mean, log_std, code)
    assert value.shape == ()
    assert value.item() == pytest.approx(2 * math.log(2) - 0.5 - math.log(0.25) - math.log(2 * math.pi), abs=1e-12)
    assert gradients(value, mean, log_std) == [[[1.0, 0.0]], [pytest.approx([0.0, -1.0])]]
    # it is the log density of torch's own normal distribution, above that of the prior
    q = torch.distributions.Normal(mean, log_std.exp())
    assert value.item() == pytest.approx((q.log_prob(code) + math.log(2)).sum().item(), abs=1e-12)


def test_information_of_half_precision_is_reduced_in_float32():
    q = torch.zeros(4, 1, 10, dtype=torch.bfloat16)
    assert losses.categorical_information(q, torch.eye(10)[:4, None]).dtype == torch.float32
    assert losses.uniform_information(q[:, 0, :2], q[:, 0, :2], q[:, 0, :2]).dtype == torch.float32
