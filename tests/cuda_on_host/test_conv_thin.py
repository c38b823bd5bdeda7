"""Convolutions with a fine image of 1 to 4 channels (csrc/cuda/conv_thin*.cu), run on the CPU by the executor, against
float64; cases and bounds as in test_conv_gemm.py."""

from __future__ import annotations

from math import inf, prod

import pytest
import torch

from .structs import ACTIVATIONS, DTYPES, ORDERS
from .test_conv_gemm import (
    BATCH_NORM,
    DOWN,
    STATISTICS,
    UP,
    Case,
    check_convolution,
    check_normalise,
    check_weight_gradient,
    directions,
    gradient_of_weight,
    random_image,
    random_weight,
    run,
    view_image,
)
from .test_kernels import Guarded

FORWARD, GRADIENT = "conv_thin", "conv_thin_weight_grad"
CASES = [
    Case(2, 64, 3, 32, 32),  # RGB: several tiles a sample
    Case(16, 8, 3, 34, 32),  # Up: a sample a block, nine warps of pixels; Down: tiles past the lower edge
    Case(2, 40, 3, 7, 9),  # rows of different numbers of taps; channels past a step and, in tf32, past a block
    Case(1, 72, 1, 28, 28),  # fine rows off 16 bytes; channels past a block in both
    Case(1, 16, 4, 4, 280),  # wide: a tile is a part of a row
    Case(1, 8, 3, 2, 2),  # one coarse pixel
    Case(1, 16, 3, 10, 12, kernel=5, padding=2),  # columns past a block's 48; three terms a pixel and dimension
    Case(1, 8, 2, 9, 8, kernel=3, padding=0),
    Case(1, 16, 4, 6, 5, kernel=3, stride=1),
    Case(1, 8, 2, 9, 9, kernel=7, stride=1, padding=3),  # 98 columns, seven terms
    Case(1, 8, 1, 7, 9, kernel=1, stride=3, padding=0),  # fine pixels without a term
    Case(1, 8, 2, 8, 8, kernel=2, stride=2, padding=3),  # coarse pixels that meet no fine one
]
RAGGED = Case(2, 5, 3, 7, 9)  # coarse channels that are no chunks of 16 bytes: Up does not cover it
cases = pytest.mark.parametrize("case", CASES, ids=str)
maths = pytest.mark.parametrize("math", ["tf32", "bfloat16"])
some_cases = pytest.mark.parametrize("case", [CASES[i] for i in (2, 6)], ids=str)


@directions
@maths
@cases
def test_convolution(host_kernels, any_order, case, math, direction):
    check_convolution(host_kernels, case, direction, math, "channels_last", op=FORWARD)


@directions
@maths
@some_cases
def test_convolution_with_a_contiguous_weight(host_kernels, any_order, case, math, direction):
    check_convolution(host_kernels, case, direction, math, "contiguous", op=FORWARD)


@maths
@cases
def test_weight_gradient(host_kernels, any_order, case, math):
    check_weight_gradient(host_kernels, case, math, "channels_last", op=GRADIENT)


@maths
@some_cases
def test_gradient_of_a_contiguous_weight(host_kernels, any_order, case, math):
    check_weight_gradient(host_kernels, case, math, "contiguous", op=GRADIENT)


@maths
@pytest.mark.parametrize(("case", "aligned"), [(RAGGED, True), (CASES[4], False)], ids=str)
def test_ragged_channels_and_images_off_their_alignment(host_kernels, any_order, case, math, aligned):
    for layout in ("channels_last", "contiguous"):
        check_convolution(host_kernels, case, DOWN, math, layout, aligned=aligned, op=FORWARD)
        check_weight_gradient(host_kernels, case, math, layout, aligned=aligned, op=GRADIENT)


def test_float16(host_kernels, any_order):
    """Its code is bfloat16's but for the instruction."""
    for direction in (UP, DOWN):
        check_convolution(host_kernels, CASES[6], direction, "float16", "channels_last", op=FORWARD)
    check_weight_gradient(host_kernels, CASES[6], "float16", "channels_last", op=GRADIENT)


@directions
@maths
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_normalise(host_kernels, any_order, direction, math, activation):
    check_normalise(host_kernels, direction, CASES[2], math, activation, op=FORWARD)


def test_normalise_with_ragged_channels(host_kernels, any_order):
    check_normalise(host_kernels, DOWN, RAGGED, "bfloat16", "leaky_relu", op=FORWARD)


def test_results_do_not_depend_on_the_thread_order(host_kernels):
    results = []
    for order in ORDERS:
        host_kernels.set_order(order)
        results.append(
            [
                *(
                    run(host_kernels, CASES[2], direction, "bfloat16", "contiguous", op=FORWARD)[0]
                    for direction in (UP, DOWN)
                ),
                gradient_of_weight(host_kernels, CASES[2], "bfloat16", "contiguous", op=GRADIENT)[0],
            ]
        )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_the_kernels_cover(host_kernels):
    bfloat16, float32 = DTYPES[torch.bfloat16], DTYPES[torch.float32]

    def covers(case, **fields):
        fields = {"dtype": bfloat16, **fields}
        of_all = dict(shape=case.shape(), dtype=fields["dtype"], tf32=fields.get("tf32", False))
        forward = [host_kernels.covers(FORWARD, direction=d, **{**of_all, **fields}) for d in (UP, DOWN)]
        return (*forward, host_kernels.covers(GRADIENT, **of_all))

    for case in CASES:
        assert covers(case) == covers(case, dtype=float32, tf32=True) == (True, True, True)
    assert covers(RAGGED) == (False, True, True)
    assert covers(CASES[4], x=8) == (False, True, True)
    assert covers(CASES[0], dtype=float32) == (False, False, False)
    for epilogue in (STATISTICS, BATCH_NORM):
        assert covers(CASES[0], epilogue=epilogue) == (False, False, True)
    for case in (Case(1, 64, 5, 8, 8), Case(1, 8, 3, 9, 9, kernel=7), Case(1, 8, 1, 12, 12, kernel=8)):
        assert covers(case) == (False, False, False), case
    assert covers(Case(1, 1024, 3, 4, 4)) == (False, True, True), "the weight does not fit shared memory"


def test_the_cases_are_cut_into_several_tiles(host_kernels):
    """Otherwise the tests above say nothing about some of the code."""

    def plan(op, case, **fields):
        return host_kernels.plan(op, shape=case.shape(), dtype=DTYPES[torch.bfloat16], **fields)[:3]

    assert plan(FORWARD, CASES[0], direction=UP) == [4, 8, 16]
    assert plan(FORWARD, CASES[0], direction=DOWN) == plan(GRADIENT, CASES[0]) == [8, 16, 4]
    assert plan(FORWARD, CASES[1], direction=UP) == [17, 16, 16]
    assert plan(FORWARD, CASES[1], direction=DOWN) == [6, 16, 48]
    assert plan(GRADIENT, CASES[1]) == [6, 16, 8], "six tiles a split: more than the ring has stages"
    assert plan(FORWARD, CASES[4], direction=DOWN) == [2, 35, 4]


@directions
def test_an_infinite_pixel_reaches_what_it_is_a_term_of(host_kernels, any_order, direction):
    """Columns and channels are padded, and a zero there would meet the infinity and make NaN of it."""
    case = Case(1, 8, 3, 9, 8, kernel=3, padding=0)
    inputs, outputs = case.images(direction)
    x, weight = random_image(inputs, torch.bfloat16, 1), random_weight(case, torch.bfloat16, "contiguous")
    x[0, 0, 2, 2] = inf
    out = Guarded(prod(outputs), torch.bfloat16)
    host_kernels.call(
        FORWARD, shape=case.shape(), direction=direction, dtype=DTYPES[x.dtype], x=x, weight=weight, out=out.tensor
    )
    expected = (case.up if direction == UP else case.down)(x.double(), weight.double())
    result = view_image(out.check(), outputs)
    assert torch.equal(result.isinf(), expected.isinf()) and expected.isinf().any()
