"""csrc/cuda/conv_gemm_sm90a.cu over the executor against PyTorch's convolutions in float64: both directions, thread
orders and landing times, phases, tails of every tile dimension, statistics; and under the race detector."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from numerics import SUM_ULPS, assert_within_oracle
from torch.nn.functional import conv2d, conv_transpose2d

from .structs import DTYPES, ORDERS
from .toolchain import HERE, compile_for_host, compile_with_races, faulty_sources

DIRECTIONS = {"up": 0, "down": 1}
MODES = list(itertools.product(ORDERS.values(), (0, 1)))  # landing late, eager
EPS = 1e-5
K4, K3, K5, K3_UP, K2 = (4, 2, 1, 0), (3, 1, 1, 0), (5, 2, 2, 1), (3, 2, 1, 1), (2, 2, 0, 0)


SOURCE = HERE / "conv_sm90a.cpp"


def load(path) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    library.conv_gemm_sm90a_on_host.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("conv_sm90a") / "conv_sm90a.so"
    return load(compile_for_host(output, SOURCE, "-O1", "-shared", "-fPIC"))


def channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous(memory_format=torch.channels_last)


class Case:
    """A layer with random operands; coarse (N, C, h, w), fine (N, c, H, W), weight (C, c, k, k)."""

    def __init__(self, direction, samples, side, coarse, fine, geometry, dtype, width=0):
        self.kernel, self.stride, self.padding, self.output_padding = geometry
        generator = torch.Generator().manual_seed(samples * 1000 + side + coarse + fine)
        self.direction, self.dtype = direction, dtype
        size = (samples, coarse, side, width or side)
        weight = torch.randn(coarse, fine, self.kernel, self.kernel, generator=generator) / 8
        self.weight = channels_last(weight.to(dtype))
        self.coarse_size = size
        larger = [(s - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding for s in size[2:]]
        self.fine_size = (samples, fine, *larger)
        x_size, out_size = (size, self.fine_size) if direction == "up" else (self.fine_size, size)
        self.x = channels_last(torch.randn(x_size, generator=generator).to(dtype))
        self.bias = torch.randn(out_size[1], generator=generator).to(dtype)
        self.out = channels_last(torch.full(out_size, float("nan"), dtype=dtype))
        self.moments = torch.full((3, out_size[1]), float("nan"))

    def formula(self, dtype: torch.dtype) -> torch.Tensor:
        x, weight, bias = (t.to(dtype) for t in (self.x, self.weight, self.bias))
        if self.direction == "up":
            return conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding)
        return conv2d(x, weight, bias, self.stride, self.padding)

    def run(self, library: ctypes.CDLL, order: int = 0, landing: int = 0, statistics: bool = True) -> str | None:
        library.set_options(order, landing)
        n, coarse, h, w = self.coarse_size
        _, fine, fine_h, fine_w = self.fine_size
        values = (n, h, w, coarse, fine_h, fine_w, fine, self.kernel, self.stride, self.padding)
        pointers = [t.data_ptr() for t in (self.x, self.weight, self.bias, self.out)]
        pointers.append(self.moments.data_ptr() if statistics else None)
        direction, dtype = DIRECTIONS[self.direction], DTYPES[self.dtype]
        shape = (ctypes.c_int64 * len(values))(*values)
        error = library.conv_gemm_sm90a_on_host(shape, direction, dtype, *map(ctypes.c_void_p, pointers))
        return error and error.decode()

    def check(self) -> None:
        assert_within_oracle(self.out, self.formula(torch.float64), self.formula(torch.float32).to(self.dtype), "out")

    def check_statistics(self) -> None:
        z = self.out.double().transpose(0, 1).flatten(1)  # of z as stored
        exact = [z.mean(1), z.var(1, correction=0)]
        exact.append((exact[1] + EPS).rsqrt())
        for name, actual, oracle in zip(("mean", "var", "invstd"), self.moments, exact, strict=True):
            scale = z.std(1, correction=0) if name == "mean" else None
            assert_within_oracle(actual, oracle, oracle.float(), name, scale=scale, ulps=SUM_ULPS)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_kernel_4_in_every_order_and_timing(library, direction):
    bits = set()
    for order, landing in MODES:
        case = Case(direction, 3, 4, 72, 136, K4, torch.bfloat16)
        assert case.run(library, order, landing) is None
        case.check()
        case.check_statistics()
        bits.add((case.out.view(torch.int16).numpy().tobytes(), case.moments.numpy().tobytes()))
    assert len(bits) == 1, "the order of threads changes the result"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("samples", "side", "coarse", "fine", "geometry", "dtype", "width"),
    [
        (1, 1, 8, 8, K4, torch.float16, 0),  # one coarse pixel
        (9, 4, 64, 64, K4, torch.bfloat16, 0),  # samples of several tiles, the last one short
        (1, 5, 8, 200, K4, torch.float16, 9),  # odd sides, two blocks of columns of Up, the last one short
        (1, 3, 264, 16, K4, torch.bfloat16, 40),  # many steps a tap; wider than high
        (2, 6, 64, 24, K3, torch.bfloat16, 0),
        (2, 5, 24, 16, K5, torch.bfloat16, 0),
        (2, 5, 24, 16, K3_UP, torch.bfloat16, 0),
        (2, 5, 24, 16, K2, torch.bfloat16, 0),
    ],
)
def test_shapes(library, direction, samples, side, coarse, fine, geometry, dtype, width):
    case = Case(direction, samples, side, coarse, fine, geometry, dtype, width)
    assert case.run(library) is None
    case.check()
    case.check_statistics()


def test_no_race(tmp_path, race_detector):
    library = load(compile_with_races(tmp_path / "races.so", SOURCE, race_detector, "-shared"))
    for direction, landing in itertools.product(DIRECTIONS, (0, 1)):
        case = Case(direction, 1, 4, 72, 72, K4, torch.bfloat16)
        assert case.run(library, ORDERS["random"], landing) is None


def test_a_stage_released_while_it_is_read_is_a_race(tmp_path, race_detector):
    release = (
        "if (previous && threadIdx.x % kWarp == 0) mbarrier_arrive(previous);\n    previous = empty + place.stage;"
    )
    early = "previous = empty + place.stage;\n    if (threadIdx.x % kWarp == 0) mbarrier_arrive(previous);"
    sources = faulty_sources(tmp_path, ("conv_gemm_sm90a.cu", release, early))
    library = load(compile_with_races(tmp_path / "races.so", SOURCE, race_detector, "-shared", csrc=sources))
    error = Case("down", 1, 4, 72, 72, K4, torch.bfloat16).run(library)
    assert "race on shared memory" in error and "wgmma's read" in error


def test_without_statistics_nothing_but_the_product_is_written(library):
    case = Case("up", 2, 4, 8, 8, K4, torch.bfloat16)
    assert case.run(library, statistics=False) is None
    case.check()
    assert case.moments.isnan().all()


def test_what_is_not_covered_is_refused(library):
    not_whole_chunks = Case("up", 1, 4, 8, 12, K4, torch.bfloat16)
    assert not_whole_chunks.run(library) == "launch returned error 801"  # cudaErrorNotSupported
