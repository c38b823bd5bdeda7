"""The CPU kernels of convolutions with an image of 1 to 4 channels at one end, through the ops that use them."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from numerics import assert_within_oracle

from .conv_cases import (
    CAPABILITIES,
    DIRECTIONS,
    Case,
    all_results,
    aten_convolutions,
    check_planned,
    check_strides,
    cotangent_of,
    halving,
    module_results,
    plan_of,
    planned,
    results,
)

pytestmark = pytest.mark.usefixtures("kernels")

# (batch, small channels, large channels, (H, W) of the small image)
SHAPES = {
    "one pixel": (1, 1, 3, (1, 1)),
    "one row": (2, 5, 1, (1, 3)),
    "one column": (2, 17, 2, (5, 1)),
    "rgb": (3, 64, 3, (8, 8)),
    "rgba": (2, 70, 4, (3, 13)),
    "grey": (2, 33, 1, (6, 10)),
    "two": (2, 48, 2, (4, 9)),
    "deep": (2, 300, 3, (4, 6)),
    "several parts": (5, 64, 3, (16, 20)),
}
LAYOUTS = ("contiguous", "channels_last", "view")


def thin(transposed: bool, shape: str, **options) -> Case:
    return halving(transposed, *SHAPES[shape], **(dict(norm=False, bias=True) | options))


def check(case: Case, capability: str | None = None, cotangent_layout: str = "contiguous") -> None:
    """Values and gradients are as near to float64 as torch's own, and lie in memory as torch's own."""
    # Behind batch statistics what is differentiated has three terms, g, its mean and a share of xhat, each one rounded.
    ulps = 3 if case.norm and case.training else 1
    check_planned(case, "thin", functools.partial(assert_within_oracle, ulps=ulps), capability, cotangent_layout)


@DIRECTIONS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_shapes(transposed, shape, capability):
    check(thin(transposed, shape, activation="tanh" if transposed else "leaky_relu"), capability)


@DIRECTIONS
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activations_and_dtypes(transposed, activation, dtype):
    check(thin(transposed, "rgb", activation=activation, dtype=dtype))
    check(thin(transposed, "one row", activation=activation, dtype=dtype, bias=False))


@DIRECTIONS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_ahead_of_batch_norm(transposed, training):
    for shape in ("rgb", "grey"):
        check(thin(transposed, shape, norm=True, training=training))


@DIRECTIONS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
def test_layouts(transposed, layout, weight_layout):
    for shape in ("rgb", "grey"):
        case = thin(transposed, shape, layout=layout, weight_layout=weight_layout)
        plain = dataclasses.replace(case, layout="contiguous", weight_layout=None)
        for cotangent_layout in LAYOUTS:
            with planned("thin"):
                found, expected = all_results(case, cotangent=cotangent_of(case, cotangent_layout)), all_results(plain)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        check(case, cotangent_layout=weight_layout)


@DIRECTIONS
@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("weight_layout", LAYOUTS[:2])
def test_strides_where_dimensions_are_one(transposed, layout, weight_layout):
    for shape in ("one pixel", "one row", "one column", "grey"):
        case = thin(transposed, shape, layout=layout, weight_layout=weight_layout)
        check_strides(case, "thin")


@DIRECTIONS
def test_gradients_are_computed_alone_as_together(transposed):
    case = thin(transposed, "rgba", activation="tanh")
    tensors, cotangent = case.inputs(), cotangent_of(case)
    with planned("thin"):
        _, together = results(case, tensors, cotangent)
        for name in together:
            for other in together:
                tensors[other].requires_grad_(other == name)
            _, alone = results(case, tensors, cotangent)
            assert torch.equal(alone[name], together[name]), name


@DIRECTIONS
@pytest.mark.parametrize("shape", ["several parts", "deep"])
def test_results_do_not_depend_on_the_number_of_threads(transposed, shape):
    case = thin(transposed, shape)
    threads = torch.get_num_threads()
    outcomes = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            with planned("thin"):
                outcomes.append(all_results(case))
    finally:
        torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcome, outcomes[0], strict=True))


@DIRECTIONS
def test_forward_is_accurate(transposed):
    """The sums are short: 64 channels x 4 taps, or 48 taps."""
    case = thin(transposed, "rgb", activation="none")
    tensors, cotangent = case.inputs(), cotangent_of(case)
    with planned("thin"):
        y = case.op(**tensors, **case.options()).y
    exact = module_results(case, tensors, torch.float64, cotangent, None)[0]
    assert torch.linalg.vector_norm(y.double() - exact) <= 5e-7 * torch.linalg.vector_norm(exact)


@DIRECTIONS
def test_what_is_covered(transposed):
    """What the kernel does not cover is ATen's, even where the kernel is asked for."""
    rgb = thin(transposed, "rgb")
    covered = [rgb, dataclasses.replace(rgb, norm=True), dataclasses.replace(rgb, dtype=torch.bfloat16)]
    others = [dict(kernel=3), dict(padding=2), dict(stride=1), dict(dilation=2), dict(dtype=torch.float64)]
    others += [dict(c_in=5, c_out=5), dict(c_in=64, c_out=64, groups=64), *([] if transposed else [dict(size=(9, 8))])]
    with planned("thin"):
        for case in covered:
            assert plan_of(case) == ("thin",) * 3
            assert aten_convolutions(case) == set()
        for change in others:
            case = dataclasses.replace(rgb, **change)
            assert plan_of(case) == ("aten",) * 3, change
        assert aten_convolutions(dataclasses.replace(rgb, kernel=3))
