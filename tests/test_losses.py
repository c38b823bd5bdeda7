"""Losses against numbers worked out by hand, with their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from fastgan import losses

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


def test_finite_at_any_logit():
    real, fake = logits(-1e4, 1e4, dtype=torch.float32), logits(1e4, -1e4, dtype=torch.float32)
    for value, expected in [
        (losses.minimax_discriminator(real, fake), 1e4),
        (losses.minimax_generator(fake), -5e3),
        (losses.non_saturating_generator(fake), 5e3),
    ]:
        assert value.item() == pytest.approx(expected)
        inputs = [
            t
            for t in (real, fake)
            if torch.autograd.grad(value, t, retain_graph=True, allow_unused=True)[0] is not None
        ]
        for grad in torch.autograd.grad(value, inputs):
            assert torch.isfinite(grad).all() and grad.abs().max() == 0.5


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
    assert torch.autograd.gradgradcheck(losses.minimax_discriminator, (real, fake))
    assert torch.autograd.gradgradcheck(losses.non_saturating_generator, (fake,))


@pytest.mark.parametrize(
    "loss", [losses.minimax_generator, losses.non_saturating_generator, losses.wasserstein_generator]
)
def test_bad_input_is_named(loss):
    with pytest.raises(TypeError, match="fake_logits takes a floating-point tensor, got torch.int64"):
        loss(torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="fake_logits takes a floating-point tensor, got float"):
        loss(0.5)
    with pytest.raises(ValueError, match=r"fake_logits is empty \(shape \(0, 1\)\)"):
        loss(torch.zeros(0, 1))
