"""Convolutions between 1x1 and the size of the kernel by one matrix product (CPU), through the ops that use it."""

from __future__ import annotations

import itertools

import pytest
import torch
from numerics import assert_within_oracle

from fastgan.ops._convolution import convolution, convolution_backward

from .conv_cases import (
    DIRECTIONS,
    Case,
    all_results,
    aten_convolutions,
    check_planned,
    check_strides,
    cotangent_of,
    in_layout,
    planned,
    results,
)

pytestmark = pytest.mark.usefixtures("kernels")
LAYOUTS = ("contiguous", "channels_last")
# (C on the side of 1x1, C on the other side, kernel)
SHAPES = {
    "to one": (10, 1, 4),
    "one": (1, 8, 4),
    "both": (12, 8, 4),
    "oblong": (7, 5, (3, 5)),
    "row": (6, 3, (1, 4)),
    "1x1 kernel": (6, 9, 1),
}
AROUND = {
    "bias": {"norm": False, "bias": True, "activation": "none"},
    "tanh": {"norm": False, "activation": "tanh"},
    "norm": {"activation": "relu"},
    "norm bias": {"bias": True},
    "eval bias": {"training": False, "bias": True},
}


def end(transposed: bool, shape: str, **options) -> Case:
    c_pixel, c_image, kernel = SHAPES[shape]
    size = (1, 1) if transposed else (kernel, kernel) if isinstance(kernel, int) else kernel
    channels = (c_pixel, c_image) if transposed else (c_image, c_pixel)
    return Case(transposed, 5, *channels, size, kernel=kernel, **(dict(padding=0) | options))


@DIRECTIONS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_and_gradients(transposed, shape, around, dtype):
    check_planned(end(transposed, shape, dtype=dtype, **AROUND[around]), "matmul", assert_within_oracle)


@DIRECTIONS
@pytest.mark.parametrize("layout", [*LAYOUTS, "view"])
@pytest.mark.parametrize("weight_layout", [*LAYOUTS, "view"])
@pytest.mark.parametrize("shape", ["both", "oblong"])
def test_layouts(transposed, layout, weight_layout, shape):
    for cotangent_layout in (*LAYOUTS, "view"):
        case = end(transposed, shape, norm=False, bias=True, layout=layout, weight_layout=weight_layout)
        check_planned(case, "matmul", assert_within_oracle, cotangent_layout=cotangent_layout)
    check_planned(end(transposed, shape, layout=layout, weight_layout=weight_layout), "matmul", assert_within_oracle)


@DIRECTIONS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
def test_strides_where_dimensions_are_one(transposed, layout, weight_layout):
    """A memory format is ambiguous there; what torch decides is the format of the layers that follow."""
    for shape in SHAPES:
        case = end(transposed, shape, norm=False, layout=layout, weight_layout=weight_layout)
        check_strides(case, "matmul")


@DIRECTIONS
def test_the_stride_does_not_matter(transposed):
    for stride in (2, (3, 1)):
        check_planned(end(transposed, "both", norm=False, stride=stride), "matmul", assert_within_oracle)
        with planned("matmul"):
            strided, plain = (all_results(end(transposed, "both", stride=s)) for s in (stride, 1))
        assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))


@DIRECTIONS
def test_no_convolution_of_aten_is_called(transposed):
    with planned("matmul"):
        assert all(aten_convolutions(end(transposed, "both", **around)) == set() for around in AROUND.values())


@DIRECTIONS
@pytest.mark.parametrize("mask", list(itertools.product([True, False], repeat=3)), ids=str)
def test_plain_convolutions(transposed, mask):
    case = end(transposed, "both", norm=False, bias=True)
    tensors, cotangent = case.inputs(), cotangent_of(case)
    given = [tensors[name].detach() for name in ("x", "weight", "bias")]
    exact, options = [t.double() for t in given], case.aten_options()
    with planned("matmul"):
        z = convolution(*given, *options)
        grads = convolution_backward(cotangent, *given[:2], *options, list(mask))
    backward, everything = torch.ops.aten.convolution_backward, [True, True, True]
    assert_within_oracle(z, torch.ops.aten.convolution(*exact, *options), torch.ops.aten.convolution(*given, *options))
    oracle = backward(cotangent.double(), *exact[:2], [case.c_out], *options, everything)
    baseline = backward(cotangent, *given[:2], [case.c_out], *options, everything)
    assert [grad is not None for grad in grads] == list(mask)
    for name, grad, o, b in zip(("x", "weight", "bias"), grads, oracle, baseline, strict=True):
        if grad is not None:
            scale = cotangent.double().norm().item() if name == "bias" else None
            assert_within_oracle(grad, o, b, f"gradient of {name}", scale)


@DIRECTIONS
def test_nothing_given_is_written_to_or_shared(transposed):
    """Inputs that are already matrices of the product are its operands, never its results."""
    for shape in ("both", "1x1 kernel"):
        case = end(transposed, shape, norm=False, bias=True)
        tensors, cotangent = case.inputs(), cotangent_of(case)
        before = {name: t.detach().clone() for name, t in tensors.items()}
        with planned("matmul"):
            result, grads = results(case, tensors, cotangent)
        assert all(torch.equal(tensors[name], value) for name, value in before.items())
        assert torch.equal(cotangent, in_layout(cotangent_of(case), "contiguous"))
        memory = [t.data_ptr() for t in (result.y, *grads.values(), *tensors.values(), cotangent)]
        assert len(set(memory)) == len(memory)
