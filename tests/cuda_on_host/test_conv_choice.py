"""The fused convolutions over the executor by each of their implementations, and the trial that chooses among them."""

from __future__ import annotations

import pytest
import torch
from numerics import SUM_ULPS, assert_within_oracle

import fastgan.ops

KERNELS = ["thin", "sm80", "sm80_one_launch", "sm90a", "sm90a_one_launch", "matmul", "aten"]
LAYER = {"stride": 2, "padding": 1}
ENDS = {"stride": 1, "padding": 0}


def layer(transposed: bool, where: str, dtype: torch.dtype, bias: bool = False, small: bool = False):
    """(x, weight, bias, gamma, beta, running_mean, running_var, geometry), channels_last; `where`: an
    "inner" layer, the "1x1" end or the "rgb" end of a network.

    Small ones for trials, which run every candidate 24 times.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    coarse, fine = (8, 8) if small else (16, 3 if where == "rgb" else 24)
    c_in, c_out = (coarse, fine) if transposed else (fine, coarse)
    ends = where == "1x1"
    size = (1 if transposed else 4) if ends else 2 if small else 6
    x = normal(5, c_in, size, size).to(dtype, memory_format=torch.channels_last)
    weight = normal(*((c_in, c_out) if transposed else (c_out, c_in)), 4, 4) / 8
    weight = weight.to(dtype, memory_format=torch.channels_last)
    vectors = [normal(c_out) + 2, normal(c_out), normal(c_out), normal(c_out).square() + 0.5]
    return x, weight, normal(c_out).to(dtype) if bias else None, *vectors, (ENDS if ends else LAYER)


def integers(transposed: bool, geometry: dict) -> list:
    pairs = [[geometry["stride"]] * 2, [geometry["padding"]] * 2]
    return [*pairs, *([[0, 0]] if transposed else []), [1, 1], 1]


def run(ops, transposed, tensors, geometry, norm, training, activation):
    """(y, z, mean, invstd, grad_y, gradients)."""
    name = "conv_transpose2d_bn_act" if transposed else "conv2d_bn_act"
    x, weight, bias, gamma, beta, mean, var = tensors
    affine, running = ([gamma, beta], [mean, var]) if norm else ([None, None], [None, None])
    forward = getattr(ops, name)
    options = integers(transposed, geometry)
    y, *kept = forward(x, weight, bias, *affine, *running, *options, norm, training, True, 1e-5, activation, 0.2, False)
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    grads = getattr(ops, f"{name}_backward")(
        grad_y, x, weight, bias, *affine, y, *kept, *options, norm, training, activation, 0.2, True, True,
        bias is not None, norm, 1e-5, False,
    )  # fmt: skip
    return y, *kept, grad_y, grads


def reference(transposed, tensors, geometry, norm, training, activation, grad_y, convert):
    name = "conv_transpose2d_bn_act" if transposed else "conv2d_bn_act"
    x, weight, bias, gamma, beta, mean, var = (t if t is None else convert(t) for t in tensors)
    leaves = [t for t in (x, weight, bias, *((gamma, beta) if norm else ())) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    vectors = (gamma, beta, mean, var) if norm else ()
    with fastgan.ops.use("reference"):
        op = getattr(fastgan.ops, name)
        result = op(x, weight, bias, *vectors, **geometry, norm=norm, training=training, activation=activation)
    return result, torch.autograd.grad(result.y, leaves, convert(grad_y))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("where", ["inner", "1x1", "rgb"])
@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "conv"])
@pytest.mark.parametrize("mode", ["train", "eval", "bias and activation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_each_implementation(ops, device, kernel, transposed, where, mode, dtype):
    """Where it does not cover a call, it is ATen that runs: which calls those are is the next test's business."""
    device.plan(kernel)
    *tensors, geometry = layer(transposed, where, dtype, bias=mode == "bias and activation")
    norm, training = mode != "bias and activation", mode == "train"
    arguments = (transposed, tensors, geometry, norm, training, "leaky_relu")
    y, z, mean, invstd, grad_y, grads = run(ops, *arguments)
    oracle, expected = reference(*arguments, grad_y, torch.Tensor.double)
    baseline, expected_baseline = reference(*arguments, grad_y, torch.Tensor.clone)
    ulps = SUM_ULPS if training and norm else 1
    assert_within_oracle(y, oracle.y, baseline.y, "y", ulps=ulps)
    assert y.is_contiguous(memory_format=torch.channels_last)
    if norm:
        assert_within_oracle(mean, oracle.mean, baseline.mean, "mean", dtype=dtype, ulps=ulps)
        assert_within_oracle(invstd, oracle.invstd, baseline.invstd, "invstd", dtype=dtype, ulps=ulps)
    if dtype == torch.float32:  # in 16 bits an activation's mask may flip where u is near 0
        found = [g for g in grads if g.numel()]
        for i, (actual, *wanted) in enumerate(zip(found, expected, expected_baseline, strict=True)):
            scale = None if i < 2 else grad_y.double().norm().item()
            assert_within_oracle(actual, *wanted, f"gradient {i}", scale, ulps=SUM_ULPS)
            assert actual.stride() == wanted[1].stride()


RISING, FALLING = range(1, 101), range(100, 0, -1)  # times of a trial: what is timed first wins, or what is timed last
KEY = "conv_transpose2d {}, bfloat16, x 5x8x2x2 nhwc, weight 8x8x4x4 nhwc, stride 2x2, padding 1x1, output_padding 0x0"


def test_the_fastest_is_chosen_once_and_for_all(ops, device):
    *tensors, geometry = layer(True, "inner", torch.bfloat16, small=True)
    arguments = (True, tensors, geometry, True, True, "relu")
    products = ("batch_norm", "input_gradient", "weight_gradient")
    assert [device.chosen(KEY.format(p)) for p in products] == ["", "", ""]
    device.set(capturing=True)  # no trial inside a graph
    run(ops, *arguments)
    assert [device.chosen(KEY.format(p)) for p in products] == ["", "", ""]
    device.set()
    device.set(8, 0)
    device.set_times(*FALLING)  # ATen's is the last candidate
    run(ops, *arguments)
    assert [device.chosen(KEY.format(p)) for p in products] == ["aten", "aten", "aten"]
    device.set_times(*RISING)
    run(ops, *arguments)
    assert device.chosen(KEY.format("batch_norm")) == "aten", "the first trial counts"
    for n, major, kernel in ((4, 8, "sm80"), (2, 9, "sm90a")):
        device.set(major, 0)
        device.set_times(*RISING)
        tensors[0] = tensors[0][:n]
        run(ops, True, tensors, geometry, True, True, "relu")
        key = KEY.replace("x 5x8", f"x {n}x8")
        assert [device.chosen(key.format(p)) for p in products] == [f"{kernel}_one_launch", kernel, kernel]


def test_a_device_that_runs_no_kernel_makes_no_trial(ops, device):
    device.set(7, 5)
    *tensors, geometry = layer(False, "inner", torch.bfloat16, small=True)
    tensors[0] = tensors[0][:3]
    run(ops, False, tensors, geometry, True, True, "relu")
    key = "conv2d batch_norm, bfloat16, x 3x8x2x2 nhwc, weight 8x8x4x4 nhwc, stride 2x2, padding 1x1"
    assert device.chosen(key) == ""


def test_the_key_tells_apart_all_that_changes_the_time(ops, device):
    """Memory order, groups and dilation, too; layers of which no kernel of ours covers anything need no trial."""
    device.set(8, 0)
    device.set_times(*RISING)
    x, weight = torch.randn(2, 8, 5, 5).bfloat16(), torch.randn(8, 8, 3, 3).bfloat16()
    rest = ([1, 1], [1, 1], [1, 1], 1, False, True, False, 1e-5, "relu", 0.2, False)
    ops.conv2d_bn_act(x, weight, *[None] * 5, *rest)
    tail = ", bfloat16, x 2x8x5x5 {}, weight 8x8x3x3 {}, stride 1x1, padding 1x1"
    assert device.chosen(f"conv2d activation{tail.format('nchw', 'nchw')}") == ""
    ops.conv2d_bn_act(x.contiguous(memory_format=torch.channels_last), weight, *[None] * 5, *rest)
    assert device.chosen(f"conv2d activation{tail.format('nhwc', 'nchw')}") == "sm80"
