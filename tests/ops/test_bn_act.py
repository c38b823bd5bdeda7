"""The stages of BatchNorm + activation, each alone, and as a synchronised BatchNorm would call them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from numerics import SUM_ULPS, assert_within_oracle

from fastgan.ops import bn_act, bn_act_backward_elemt, bn_act_backward_reduce, bn_stats, update_running_stats_, use

from .conv_cases import in_layout

ACTIVATIONS = pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh"])
SHAPES = [(3, 5, 7, 9), (1, 59, 3, 3), (4, 1, 1, 1), (2, 3, 16, 16), (5, 6), (2, 4, 11), (2, 3, 2, 5, 4)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def leaky_relu(u: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(u, 0.2)


def activate(u: torch.Tensor, activation: str) -> torch.Tensor:
    functions = {"none": torch.clone, "relu": torch.relu, "leaky_relu": leaky_relu, "tanh": torch.tanh}
    return functions[activation](u)


def statistics(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    var, mean = torch.var_mean(z, [0, *range(2, z.dim())], correction=0)
    return mean, var


def affine(channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return 1 + 0.3 * torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype)


def channel(vector: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return vector.view(1, -1, *[1] * (z.dim() - 2))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics(shape, dtype, implementation):
    check_statistics((torch.randn(shape) * 2 + 3).to(dtype))


def check_statistics(z: torch.Tensor) -> None:
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    for name, ours, exact, plain in zip(
        ("mean", "var"), bn_stats(z), statistics(z.double()), statistics(z.to(wide)), strict=True
    ):
        assert ours.dtype == wide
        ulps = SUM_ULPS if z.is_cuda else 1
        assert_within_oracle(ours, exact, plain, name, scale=torch.full_like(exact, 10.0), ulps=ulps)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "view"])
@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_the_variance_survives_a_large_mean(layout, shift, implementation):
    """E[z^2] - mean^2 would be off by 1e8 * 6e-8 = 6, more than the variance itself."""
    z = in_layout(torch.randn(4, 3, 17, 13) + shift, layout)
    mean, var = bn_stats(z)
    exact_mean, exact_var = statistics(z.double())
    torch.testing.assert_close(mean.double(), exact_mean, rtol=2e-7, atol=1e-5)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0)


def test_constant_channels_have_no_variance(implementation):
    mean, var = bn_stats(torch.full((3, 2, 5, 5), 0.1))
    assert torch.allclose(mean, torch.full((2,), 0.1)) and var.abs().max() < 1e-12


@ACTIVATIONS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "view"])
def test_forward_and_backward_against_autograd(activation, dtype, layout, implementation):
    z = in_layout((torch.randn(3, 5, 7, 9) + 0.5).to(dtype), layout)
    check_forward_and_backward(z, in_layout(torch.randn(3, 5, 7, 9).to(dtype), layout), activation)


def check_forward_and_backward(z: torch.Tensor, grad_y: torch.Tensor, activation: str) -> None:
    dtype = z.dtype
    gamma, beta = affine(z.shape[1], dtype)
    mean, var = bn_stats(z)
    invstd = torch.rsqrt(var + 1e-5)
    y = bn_act(z, mean, invstd, gamma, beta, activation)
    assert y.dtype == dtype and y.stride() == torch.empty_like(z).stride()

    def by_autograd(dtype):
        vectors = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
        leaf = z.detach().to(dtype).requires_grad_()
        g, b = (v.detach().to(vectors).requires_grad_() for v in (gamma, beta))
        u = F.batch_norm(leaf, None, None, g, b, True)
        if activation in ("relu", "leaky_relu"):  # one activation mask for all: a flipped one is no error of backward
            out = u * torch.full_like(u, 0.0 if activation == "relu" else 0.2).masked_fill(y > 0, 1.0)
        else:
            out = activate(u, activation)
        out.backward(grad_y.to(dtype))
        return activate(u, activation).detach(), b.grad, g.grad, leaf.grad, u.detach()

    (*oracle, u), (*plain, _) = by_autograd(torch.float64), by_autograd(dtype)
    count = z.numel() // z.shape[1]
    sums = bn_act_backward_reduce(grad_y, y, z, mean, invstd, gamma, beta, activation)
    means = [s / count for s in sums]
    grad_z = bn_act_backward_elemt(grad_y, y, z, mean, invstd, gamma, beta, *means, activation)
    assert grad_z.dtype == dtype
    sum_size = grad_y.double().norm().item()  # of the terms that cancel in the sums over the batch
    scales = {"y": u, "sum_g": sum_size, "sum_g_xhat": sum_size, "grad_z": None}
    for name, actual, exact, baseline in zip(scales, (y, *sums, grad_z), oracle, plain, strict=True):
        # tanh's derivative comes from y as it is stored, and each term of a sum has that rounding: beside a baseline
        # that is exact by luck, an ulp of y's dtype
        rounded = dtype if activation == "tanh" else None
        assert_within_oracle(actual, exact, baseline, name, scales[name], dtype=rounded)


@ACTIVATIONS
def test_without_affine_and_with_constant_statistics(activation, implementation):
    z, grad_y = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    mean, invstd, nothing = torch.randn(4), torch.rand(4) + 0.5, torch.zeros(4)
    leaf = z.clone().requires_grad_()
    expected = activate((leaf - channel(mean, z)) * channel(invstd, z), activation)
    expected.backward(grad_y)
    y = bn_act(z, mean, invstd, None, None, activation)
    grad_z = bn_act_backward_elemt(grad_y, y, z, mean, invstd, None, None, nothing, nothing, activation)
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(grad_z, leaf.grad)


@ACTIVATIONS
def test_two_processes_reduce_between_the_stages(activation, implementation):
    """What a synchronised BatchNorm does with two unequal shards equals one BatchNorm over the whole batch."""
    z, grad_y = torch.randn(6, 3, 4, 4) * 2 + 1, torch.randn(6, 3, 4, 4)
    gamma, beta = affine(3, torch.float32)
    shards, grads = z.split([2, 4]), grad_y.split([2, 4])
    counts = torch.tensor([[2.0 * 16], [4.0 * 16]])
    local_mean, local_var = (torch.stack(s) for s in zip(*(bn_stats(s) for s in shards), strict=True))
    mean = (counts * local_mean).sum(0) / counts.sum()
    var = (counts * (local_var + (local_mean - mean) ** 2)).sum(0) / counts.sum()
    invstd = torch.rsqrt(var + 1e-5)
    ys = [bn_act(s, mean, invstd, gamma, beta, activation) for s in shards]
    sums = [
        bn_act_backward_reduce(g, y, s, mean, invstd, gamma, beta, activation)
        for g, y, s in zip(grads, ys, shards, strict=True)
    ]
    sum_g, sum_g_xhat = (a + b for a, b in zip(*sums, strict=True))
    means = sum_g / counts.sum(), sum_g_xhat / counts.sum()
    grad_z = torch.cat(
        [
            bn_act_backward_elemt(g, y, s, mean, invstd, gamma, beta, *means, activation)
            for g, y, s in zip(grads, ys, shards, strict=True)
        ]
    )
    leaf, g, b = (t.clone().requires_grad_() for t in (z, gamma, beta))
    expected = activate(F.batch_norm(leaf, None, None, g, b, True), activation)
    expected.backward(grad_y)
    for ours, plain in ((torch.cat(ys), expected), (grad_z, leaf.grad), (sum_g, b.grad), (sum_g_xhat, g.grad)):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def check_running_statistics(channels: int, dtype: torch.dtype, momentum: float, device="cpu") -> None:
    """update_running_stats_ against the formula in float64. eps is a large one, so that it shows."""
    stats = torch.float64 if dtype == torch.float64 else torch.float32
    mean, invstd = torch.randn(channels, dtype=stats), torch.rand(channels, dtype=stats) + 0.5
    before = [torch.rand(channels, device=device).to(dtype) for _ in range(2)]
    mean, invstd = mean.to(device), invstd.to(device)
    batch = [mean.double(), 1.25 * (invstd.double() ** -2 - 1e-3)]
    oracle = [(1 - momentum) * old.double() + momentum * new for old, new in zip(before, batch, strict=True)]
    running, baseline = ([t.clone() for t in before] for _ in range(2))
    update_running_stats_(*running, mean, invstd, 5, momentum, 1e-3)
    with use("reference"):
        update_running_stats_(*baseline, mean, invstd, 5, momentum, 1e-3)
    for actual, exact, plain, old in zip(running, oracle, baseline, before, strict=True):
        assert_within_oracle(actual, exact, plain)
        assert momentum != 0 or torch.equal(actual, old)


def test_empty_batch_and_negative_slope_take_the_reference():
    z = torch.zeros(0, 3, 4, 4)
    assert bn_act(z, torch.zeros(3), torch.ones(3)).shape == z.shape
    z = torch.randn(2, 3, 4, 4)
    y = bn_act(z, torch.zeros(3), torch.ones(3), None, None, "leaky_relu", -0.5)
    torch.testing.assert_close(y, F.leaky_relu(z, -0.5))
    with use("reference"), pytest.raises(ValueError, match="bn_act: activation is 'gelu'"):
        bn_act(z, torch.zeros(3), torch.ones(3), activation="gelu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_statistics_in_place(dtype, momentum, implementation):
    """torch.nn's BatchNorm is tested against in test_conv_bn_act."""
    check_running_statistics(6, dtype, momentum)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_running_statistics_that_are_columns(dtype):
    mean, var = torch.stack([torch.zeros(3), torch.ones(3)], 1).unbind(1)
    mean = mean.to(dtype)
    update_running_stats_(mean, var, torch.ones(3), torch.ones(3), 2, 0.5, 0.0)
    assert torch.equal(mean.float(), torch.full((3,), 0.5)) and torch.equal(var, torch.full((3,), 1.5))
    with use("kernel"), pytest.raises(NotImplementedError, match="not contiguous, or of two dtypes"):
        update_running_stats_(mean, var, torch.ones(3), torch.ones(3), 2, 0.5, 0.0)


def test_running_statistics_refuse_other_shapes(kernels):
    c = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r"running_var has shape \(2,\); it takes \(3,\), contiguous"):
        update_running_stats_(c, c[:2], c + 1, c + 1, 5, 0.1, 0.0)
    assert torch.equal(c, torch.zeros(3)), "what is refused has changed nothing"
    with pytest.raises(RuntimeError, match=r"invstd has shape \(4,\); it takes \(3,\)"):
        update_running_stats_(c, c, c, torch.ones(4), 5, 0.1, 0.0)


@ACTIVATIONS
def test_opcheck(activation, kernels):
    ops = torch.ops.fastgan
    z, grad_y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    mean, invstd, gamma, beta = torch.randn(3), torch.rand(3), torch.randn(3), torch.randn(3)
    y = ops.bn_act(z, mean, invstd, gamma, beta, activation, 0.2)
    torch.library.opcheck(ops.bn_stats.default, (z,))
    torch.library.opcheck(ops.update_running_stats_.default, (gamma, beta, mean, invstd, 5, 0.1, 1e-5))
    torch.library.opcheck(ops.bn_act.default, (z, mean, invstd, gamma, beta, activation, 0.2))
    shared = (grad_y, y, z, mean, invstd, gamma, beta)
    torch.library.opcheck(ops.bn_act_backward_reduce.default, (*shared, activation, 0.2))
    torch.library.opcheck(ops.bn_act_backward_elemt.default, (*shared, mean, gamma, activation, 0.2))
