"""clip_weights_ against a loop of clamp_."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastgan.ops import clip_weights_, use

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAN, INF = math.nan, math.inf


def clamped(tensors: list[torch.Tensor], c: float) -> list[torch.Tensor]:
    return [t.detach().clone().clamp_(-c, c) for t in tensors]


def assert_bitwise_equal(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.dtype == b.dtype
    assert torch.equal(torch.isnan(a), torch.isnan(b))
    assert torch.equal(a.nan_to_num(), b.nan_to_num())
    assert torch.equal(torch.signbit(a)[~a.isnan()], torch.signbit(b)[~b.isnan()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("clip_value", [0.01, 1, 0.3, 1e-30, INF])
def test_equals_clamp(dtype, clip_value, implementation):
    tensors = [torch.randn(shape).to(dtype) * 0.05 for shape in ((7, 3, 4, 4), (1,), (), (33,), (5, 1000), (0, 3))]
    expected = clamped(tensors, clip_value)
    assert clip_weights_(tensors, clip_value) is None
    for ours, plain in zip(tensors, expected, strict=True):
        assert_bitwise_equal(ours, plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [9, 40])
def test_special_values(dtype, length, implementation):
    values = [NAN, -0.0, 0.0, INF, -INF, 0.01, -0.01, 65504.0, 1e-8]
    t = torch.tensor((values * 5)[:length]).to(dtype)
    (expected,) = clamped([t], 0.01)
    clip_weights_(t, 0.01)
    assert_bitwise_equal(t, expected)


def test_mixed_dtypes_layouts_and_duplicates(implementation):
    base = torch.randn(6, 5)
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    tied = torch.randn(10)
    tensors = [torch.randn(4, dtype=dtype) for dtype in DTYPES]
    tensors += [base.t(), conv.weight, conv.bias, tied, tied, torch.randn(2, 3, 4).permute(2, 0, 1)]
    expected = clamped(tensors, 0.1)
    clip_weights_(tensors, 0.1)
    for ours, plain in zip(tensors, expected, strict=True):
        assert_bitwise_equal(ours.detach(), plain)
    assert base.abs().max() <= 0.1 and conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_views_that_are_not_dense_change_only_what_they_show():
    holder = torch.randn(6, 8)
    kept = holder.clone()
    clip_weights_([holder[:, ::2], holder[1:3, 1:2]], 0.1)
    kept[:, ::2].clamp_(-0.1, 0.1)
    kept[1:3, 1:2].clamp_(-0.1, 0.1)
    assert torch.equal(holder, kept)


def test_an_explicit_kernel_refuses_what_is_not_dense(kernels):
    with use("kernel"), pytest.raises(NotImplementedError, match=r"parameter 1 \(strides \(8, 2\)\) is not dense"):
        clip_weights_([torch.randn(3), torch.randn(6, 8)[:, ::2]], 0.1)


def test_many_tensors_of_a_critic(implementation):
    critic = nn.Sequential(*(nn.Linear(n + 1, 17) for n in range(40)), nn.BatchNorm1d(5))
    clip_weights_(critic.parameters(), 0.01)
    assert all(p.abs().max() <= 0.01 for p in critic.parameters())
    assert critic[-1].weight.max().item() == pytest.approx(0.01)
    assert all(p.requires_grad and p.grad_fn is None for p in critic.parameters())


def test_nothing_to_clip():
    clip_weights_([], 0.01)
    clip_weights_(iter(()), 0.01)


def test_clipping_between_forward_and_backward_raises(implementation):
    """Silent otherwise: backward would use the clipped weights with the unclipped activations."""
    layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    loss = layers(torch.randn(2, 3)).sum()
    versions = [p._version for p in layers.parameters()]
    clip_weights_(layers.parameters(), 0.01)
    assert all(p._version > v for p, v in zip(layers.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_fullgraph_compile(implementation):
    torch._dynamo.reset()
    critic = nn.Sequential(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.Linear(3, 2))
    expected = clamped(list(critic.parameters()), 0.02)
    torch.compile(lambda: clip_weights_(critic.parameters(), 0.02), fullgraph=True, backend="aot_eager")()
    for ours, plain in zip(critic.parameters(), expected, strict=True):
        assert torch.equal(ours, plain)


def test_opcheck(kernels):
    tensors = [torch.randn(3, 4), torch.randn(5)]
    torch.library.opcheck(torch.ops.fastgan.clip_weights_.default, (tensors, 0.1))


@pytest.mark.parametrize(
    ("parameters", "clip_value", "error", "words"),
    [
        ([torch.ones(1)], 0, ValueError, "clip_value is 0; it takes a number above 0"),
        ([torch.ones(1)], -0.01, ValueError, "clip_value is -0.01"),
        ([torch.ones(1)], NAN, ValueError, "clip_value is nan"),
        ([torch.ones(1)], "0.01", ValueError, "clip_value is 0.01; it takes a number"),
        ([torch.ones(1), torch.ones(1, dtype=torch.int64)], 0.1, TypeError, r"parameters\[1\] is torch.int64"),
        ([1.0], 0.1, TypeError, r"parameters\[0\] is float"),
        (nn.Linear(2, 2), 0.1, TypeError, "parameters is Linear"),
        (nn.Sequential(nn.Linear(2, 2)), 0.1, TypeError, r"parameters\[0\] is Linear"),
        (None, 0.1, TypeError, "parameters is NoneType"),
    ],
)
def test_bad_input_is_named(parameters, clip_value, error, words, implementation):
    with pytest.raises(error, match=f"clip_weights_: {words}"):
        clip_weights_(parameters, clip_value)
