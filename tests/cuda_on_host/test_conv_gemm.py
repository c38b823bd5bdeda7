"""Convolutions on tensor cores (csrc/cuda/conv_gemm*.cu), run on the CPU by the executor, against float64.

Inputs are exact in the dtype under test, so that what remains is the rounding of float sums: numerics.py has the bound.
conv_kernels.cpp lowers FASTGAN_CONV_BLOCKS, so that these small images take every size of tile and split K.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from numerics import assert_within_float_sums

from .structs import ACTIVATIONS, DTYPES, LANDINGS, ORDERS, BnChannels, ConvShape, ImageShape
from .test_kernels import EPS, SLOPE, Guarded, act, assert_close, random_tensor

UP, DOWN = 0, 1
STORE, STATISTICS, NORMALISE, BATCH_NORM = range(4)
LAYOUTS = {"contiguous": 0, "channels_last": 1}
TYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """Fine images of n x fine x h x w, coarse ones of n x coarse x whatever the convolution leaves."""

    n: int
    coarse: int
    fine: int
    h: int
    w: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1

    def coarse_size(self) -> tuple[int, int]:
        return tuple((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (self.h, self.w))

    def shape(self) -> ConvShape:
        square = [v for v in (self.kernel, self.stride, self.padding) for _ in range(2)]
        return ConvShape(self.n, *self.coarse_size(), self.coarse, self.h, self.w, self.fine, *square)

    def up(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """(n, coarse, h', w') -> (n, fine, h, w)"""
        more = [
            side - ((small - 1) * self.stride - 2 * self.padding + self.kernel)
            for side, small in zip((self.h, self.w), self.coarse_size(), strict=True)
        ]
        return F.conv_transpose2d(x, weight, stride=self.stride, padding=self.padding, output_padding=more)

    def down(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)

    def images(self, direction: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes (N, C, H, W) of the input and of the output."""
        coarse, fine = (self.n, self.coarse, *self.coarse_size()), (self.n, self.fine, self.h, self.w)
        return (coarse, fine) if direction == UP else (fine, coarse)

    def terms(self, direction: int) -> int:
        return self.kernel**2 * (self.coarse if direction == UP else self.fine) + 1  # and the bias

    def __str__(self) -> str:
        return f"{self.n}x{self.coarse}-{self.fine}x{self.h}x{self.w}k{self.kernel}s{self.stride}p{self.padding}"


CASES = [
    Case(1, 8, 8, 2, 2),  # one coarse pixel
    Case(2, 72, 40, 8, 6),
    Case(3, 24, 136, 16, 10),  # Up: 128 x 128
    Case(10, 136, 8, 20, 10),  # Down: 128 x 128
    Case(4, 16, 40, 30, 30),  # both: 128 x 64
    Case(2, 5, 7, 7, 9),  # odd everything: element by element, packed weights, phases of different sizes
    Case(1, 12, 20, 6, 6),  # channels that are chunks of 16 bytes in tf32 only
    Case(1, 264, 8, 4, 4),  # Up splits K
    Case(1, 16, 72, 4, 4),  # Down splits K
    Case(2, 72, 136, 6, 4, kernel=2, padding=0),  # weight gradient: 128 x 128
    Case(2, 16, 24, 9, 8, kernel=3),
    Case(2, 16, 16, 9, 8, kernel=5, padding=2),
    Case(2, 16, 24, 5, 7, kernel=3, stride=1),
    Case(2, 16, 8, 32, 36, kernel=1, padding=0),  # phases without a tap; the weight gradient splits K
]

cases = pytest.mark.parametrize("case", CASES, ids=str)
directions = pytest.mark.parametrize("direction", [UP, DOWN], ids=["up", "down"])
maths = pytest.mark.parametrize("math", ["float32", "tf32", "bfloat16"])
some_cases = pytest.mark.parametrize("case", [CASES[i] for i in (1, 5, 7, 8)], ids=str)


def rounded_to_tf32(x: torch.Tensor) -> torch.Tensor:
    return ((x.float().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double()


def exact(x: torch.Tensor, math: str) -> torch.Tensor:
    """What the products are made of."""
    return rounded_to_tf32(x) if math == "tf32" else x.double()


def fields_of(math: str) -> dict[str, int | bool]:
    return {"dtype": DTYPES[TYPES[math]], "tf32": math == "tf32"}


def random_image(shape, dtype, seed, **options) -> torch.Tensor:
    """(N, C, H, W) that lies in memory as (N, H, W, C)."""
    n, c, h, w = shape
    return random_tensor((n, h, w, c), dtype, seed, **options).permute(0, 3, 1, 2)


def random_weight(case: Case, dtype, layout: str, seed: int = 2) -> torch.Tensor:
    weight = random_tensor((case.coarse, case.fine, case.kernel, case.kernel), dtype, seed)
    return weight.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else weight


def view_image(flat: torch.Tensor, shape) -> torch.Tensor:
    n, c, h, w = shape
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)


def convolve(case: Case, direction: int, math: str, x, weight, bias) -> tuple[torch.Tensor, torch.Tensor]:
    """z in float64, and the same sum over absolute values."""
    conv = case.up if direction == UP else case.down
    x, weight, bias = exact(x, math), exact(weight, math), bias.double().view(1, -1, 1, 1)
    return conv(x, weight) + bias, conv(x.abs(), weight.abs()) + bias.abs()


def run(kernels, case, direction: int, math: str, layout: str, epilogue=STORE, aligned=True, op="conv_gemm", **fields):
    """(out, x, weight, bias)."""
    dtype = TYPES[math]
    inputs, outputs = case.images(direction)
    x = random_image(inputs, dtype, 1, aligned=aligned)
    weight = random_weight(case, dtype, layout)
    bias = random_tensor((outputs[1],), dtype, 3)
    out = Guarded(torch.Size(outputs).numel(), dtype, aligned)
    kernels.call(
        op, shape=case.shape(), direction=direction, **fields_of(math), x=x, weight=weight,
        weight_layout=LAYOUTS[layout], bias=bias, out=out.tensor, epilogue=epilogue, **fields,
    )  # fmt: skip
    return view_image(out.check(), outputs), x, weight, bias


def statistics_fields(channels: int) -> tuple[list[Guarded], dict]:
    """mean, var and invstd, and the fields that name them."""
    vectors = [Guarded(channels, torch.float32) for _ in range(3)]
    return vectors, dict(zip(("mean", "var", "invstd"), (v.tensor for v in vectors), strict=True), eps=EPS)


def test_the_cases_take_every_tile_and_splits(host_kernels):
    """Otherwise the tests below say nothing about some of the code."""
    taken = set()
    for case in CASES:
        for name, fields in (
            ("conv_gemm", {"direction": UP}),
            ("conv_gemm", {"direction": DOWN}),
            ("conv_gemm_weight_grad", {}),
        ):
            plan = host_kernels.plan(name, shape=case.shape(), dtype=DTYPES[torch.bfloat16], **fields)
            rows, columns, splits, *_ = plan
            what = (name, *fields.values())
            taken |= {(*what, rows, columns), (*what, "splits" if splits > 1 else "one")}
    both = ((128, 128), (64, 64), ("splits",), ("one",))
    assert taken == {
        *(("conv_gemm", direction, *what) for direction in (UP, DOWN) for what in (*both, (128, 64))),
        *(("conv_gemm_weight_grad", *what) for what in both),
    }


def test_what_the_kernels_cover(host_kernels):
    def covers(shape, **fields):
        both = host_kernels.covers("conv_gemm", shape=shape, **fields)
        fields.pop("epilogue", None)
        return both, host_kernels.covers("conv_gemm_weight_grad", shape=shape, **fields)

    for case in CASES:
        assert covers(case.shape()) == (True, True)
    assert covers(CASES[1].shape(), epilogue=BATCH_NORM) == (False, True)
    for field, value in (
        ("samples", 0), ("coarse_channels", -1), ("fine_w", 0), ("samples", 2**31 // (8 * 6 * 40)), ("fine_h", 2**40),
        ("kernel_h", 13), ("kernel_w", 0), ("stride_h", 9), ("stride_w", 0), ("padding_h", -1), ("padding_w", 65),
    ):  # fmt: skip
        shape = CASES[1].shape()
        setattr(shape, field, value)
        assert covers(shape) == (False, False), (field, value)


def check_convolution(kernels, case, direction, math, layout, **options) -> None:
    out, *inputs = run(kernels, case, direction, math, layout, **options)
    z, magnitude = convolve(case, direction, math, *inputs)
    assert_within_float_sums(out, z, magnitude, case.terms(direction))


@directions
@maths
@cases
def test_convolution(host_kernels, any_order, case, math, direction):
    check_convolution(host_kernels, case, direction, math, "channels_last")


@directions
@maths
@some_cases
def test_convolution_with_a_contiguous_weight(host_kernels, any_order, case, math, direction):
    check_convolution(host_kernels, case, direction, math, "contiguous")


@directions
@maths
def test_images_off_their_alignment(host_kernels, any_order, math, direction):
    check_convolution(host_kernels, CASES[1], direction, math, "channels_last", aligned=False)


def gradient_of_weight(kernels, case, math, layout, aligned=True, op="conv_gemm_weight_grad"):
    """(grad_weight, coarse, fine)."""
    dtype = TYPES[math]
    coarse, fine = (random_image(shape, dtype, seed, aligned=aligned) for seed, shape in enumerate(case.images(UP)))
    grad = random_weight(case, dtype, layout)
    memory = Guarded(grad.numel(), dtype)
    kernels.call(
        op, shape=case.shape(), **fields_of(math), coarse=coarse, fine=fine,
        grad_weight=memory.tensor, weight_layout=LAYOUTS[layout],
    )  # fmt: skip
    return memory.check().as_strided(grad.shape, grad.stride()), coarse, fine


def check_weight_gradient(kernels, case, math, layout, **options) -> None:
    result, coarse, fine = gradient_of_weight(kernels, case, math, layout, **options)

    def gradient(coarse, fine):
        sizes = dict(weight_size=result.shape, stride=case.stride, padding=case.padding)
        return torch.nn.grad.conv2d_weight(fine, grad_output=coarse, **sizes)

    exactly, magnitude = (
        gradient(f(exact(coarse, math)), f(exact(fine, math))) for f in (torch.Tensor.double, torch.Tensor.abs)
    )
    assert_within_float_sums(result, exactly, magnitude, coarse[:, 0].numel())


@maths
@cases
def test_weight_gradient(host_kernels, any_order, case, math):
    check_weight_gradient(host_kernels, case, math, "channels_last")


@maths
@some_cases
def test_gradient_of_a_contiguous_weight(host_kernels, any_order, case, math):
    check_weight_gradient(host_kernels, case, math, "contiguous")


@some_cases
def test_float16(host_kernels, any_order, case):
    """Its code is bfloat16's but for the instruction."""
    for direction in (UP, DOWN):
        check_convolution(host_kernels, case, direction, "float16", "channels_last")
    check_weight_gradient(host_kernels, case, "float16", "channels_last")


@directions
@maths
@pytest.mark.parametrize("case", [CASES[i] for i in (0, 2, 4, 5, 7, 8)], ids=str)
def test_statistics(host_kernels, any_order, case, math, direction):
    """Mean and variance of z as stored, which is the same as without them."""
    (mean, var, invstd), fields = statistics_fields(case.images(direction)[1][1])
    z, *_ = run(host_kernels, case, direction, math, "channels_last", STATISTICS, **fields)
    assert torch.equal(z, run(host_kernels, case, direction, math, "channels_last")[0])
    expected_var, expected_mean = torch.var_mean(z.double(), (0, 2, 3), correction=0)
    size = z.double().square().mean((0, 2, 3)).sqrt().max().item()
    assert_close(mean.check(), expected_mean, 8, torch.float32, scale=size)
    assert_close(var.check(), expected_var, 16, torch.float32, scale=expected_var.max().item() + 1e-30)
    assert_close(invstd.check(), (var.tensor.double() + EPS).rsqrt(), 6, torch.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "direction_case", [(UP, CASES[5]), (UP, CASES[7]), (DOWN, CASES[1]), (DOWN, CASES[8])], ids=str
)
@maths
def test_normalise(host_kernels, any_order, direction_case, math, activation):
    check_normalise(host_kernels, *direction_case, math, activation)


def check_normalise(kernels, direction, case, math, activation, **options) -> None:
    dtype = TYPES[math]
    c = case.images(direction)[1][1]
    vectors = {
        "mean": random_tensor((c,), torch.float32, 11),
        "invstd": random_tensor((c,), torch.float32, 12).abs() * 0.1,
        "gamma": random_tensor((c,), dtype, 13) + 1,
        "beta": random_tensor((c,), dtype, 14),
    }
    channels = BnChannels(**{k: v.data_ptr() for k, v in vectors.items()}, affine_dtype=DTYPES[dtype])
    y, *inputs = run(
        kernels, case, direction, math, "contiguous", NORMALISE, channels=channels,
        activation=ACTIVATIONS[activation], negative_slope=SLOPE, **options,
    )  # fmt: skip
    z, magnitude = convolve(case, direction, math, *inputs)
    mean, invstd, gamma, beta = (v.double().view(1, -1, 1, 1) for v in vectors.values())
    scale = gamma * invstd
    magnitude = (magnitude + mean.abs()) * scale.abs() + beta.abs()
    # five roundings more than the sum, two ulps of tanhf, and those of the slope, which is 0.2 in float only
    expected = act((z - mean) * scale + beta, activation)
    assert_within_float_sums(y, expected, magnitude + expected.abs(), case.terms(direction) + 12)


@maths
@pytest.mark.parametrize(
    "direction_case",
    [*((UP, CASES[i]) for i in (0, 2, 3, 5)), *((DOWN, CASES[i]) for i in (3, 13))],
    ids=str,
)
def test_batch_norm_in_one_launch(host_kernels, any_order, direction_case, math):
    """The same bits as statistics and then bn_act."""
    direction, case = direction_case
    dtype, images = TYPES[math], case.images(direction)[1]
    n, c, h, w = images
    gamma, beta = (random_tensor((c,), dtype, seed) + 1 for seed in (13, 14))
    affine = dict(gamma=gamma.data_ptr(), beta=beta.data_ptr(), affine_dtype=DTYPES[dtype])
    activation = dict(activation=ACTIVATIONS["leaky_relu"], negative_slope=SLOPE)

    apart, fields = statistics_fields(c)
    z, *_ = run(host_kernels, case, direction, math, "channels_last", STATISTICS, **fields)
    expected = Guarded(z.numel(), dtype)
    channels = BnChannels(mean=fields["mean"].data_ptr(), invstd=fields["invstd"].data_ptr(), **affine)
    host_kernels.call(
        "bn_act", z=z, y=expected.tensor, shape=ImageShape(n, c, h * w, LAYOUTS["channels_last"]),
        dtype=DTYPES[dtype], channels=channels, **activation,
    )  # fmt: skip

    together, fields = statistics_fields(c)
    fields |= dict(channels=BnChannels(**affine), **activation)
    z_too = Guarded(z.numel(), dtype)
    y, *_ = run(host_kernels, case, direction, math, "channels_last", BATCH_NORM, z=z_too.tensor, **fields)
    assert torch.equal(y, view_image(expected.check(), images))
    assert torch.equal(view_image(z_too.check(), images), z)
    assert all(torch.equal(a.check(), b.check()) for a, b in zip(apart, together, strict=True))
    assert torch.equal(run(host_kernels, case, direction, math, "channels_last", BATCH_NORM, **fields)[0], y)


def test_batch_norm_in_one_launch_needs_all_blocks_at_once(host_kernels):
    def covers(case=CASES[2]):
        return host_kernels.covers("conv_gemm", shape=case.shape(), **fields_of("tf32"), epilogue=BATCH_NORM)

    blocks = 2 * 4 * 1  # of 128 channels, phases, of 128 pixels
    try:
        host_kernels.set_resident_blocks(blocks)
        assert covers()
        host_kernels.set_resident_blocks(blocks - 1)
        assert not covers()
    finally:
        host_kernels.set_resident_blocks(32)
    assert not covers(CASES[7]), "split over K"


@pytest.mark.parametrize("math", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("case", [CASES[1], CASES[7]], ids=str)
def test_results_do_not_depend_on_the_order_of_threads_or_copies(host_kernels, case, math):
    results = []
    try:
        for order, landing in itertools.product(ORDERS, LANDINGS):
            host_kernels.set_order(order, landing=landing)
            vectors, fields = statistics_fields(case.fine)
            z, *_ = run(host_kernels, case, UP, math, "channels_last", STATISTICS, **fields)
            results.append([z, gradient_of_weight(host_kernels, case, math, "channels_last")[0]])
            results[-1] += [v.check() for v in vectors]
    finally:
        host_kernels.set_order("random")
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
