"""csrc/cuda/conv_gemm*_sm90a.cu over the executor against PyTorch's convolutions in float64: both directions and the
weight gradient, thread orders and landing times, phases, tails of every tile dimension, epilogues, splits of K; faults
that the race detector finds (without one they do not race: sweep_conv.cpp)."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Protocol

import pytest
import torch
from numerics import SUM_ULPS, assert_within_float_sums, assert_within_oracle
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_weight

from .structs import ACTIVATIONS, DTYPES, ORDERS, BnChannels, ConvGemmParams, ConvShape, ConvWeightGradParams
from .test_kernels import SLOPE, act
from .toolchain import HERE, build, compile_for_host, compile_with_races, faulty_sources

DIRECTIONS = {"up": 0, "down": 1}
STORE, STATISTICS, NORMALISE, BATCH_NORM = range(4)
CHANNELS_LAST = 1
MODES = list(itertools.product(ORDERS.values(), (0, 1)))  # landing late, eager
EPS = 1e-5
K4, K3, K5, K3_UP, K2, K1 = (4, 2, 1, 0), (3, 1, 1, 0), (5, 2, 2, 1), (3, 2, 1, 1), (2, 2, 0, 0), (1, 1, 0, 0)

SOURCE = HERE / "conv_sm90a.cpp"


class Call(Protocol):
    """Owns the tensors that ``params`` points to."""

    name: str
    params: ctypes.Structure


class Library:
    def __init__(self, path: Path) -> None:
        self.calls = ctypes.CDLL(path)
        for name, params in (("conv_gemm", ConvGemmParams), ("conv_gemm_weight_grad", ConvWeightGradParams)):
            run, plan = (getattr(self.calls, f"{prefix}_{name}_sm90a") for prefix in ("run", "plan_of"))
            run.argtypes, run.restype = [params], ctypes.c_char_p
            plan.argtypes, plan.restype = [params, ctypes.POINTER(ctypes.c_int)], None

    def run(self, call: Call, order: int = 0, landing: int = 0) -> str | None:
        self.calls.set_options(order, landing)
        error = getattr(self.calls, f"run_{call.name}_sm90a")(call.params)
        return error and error.decode()

    def plan(self, call: Call) -> tuple[int, ...]:
        """Rows and columns of a tile, and splits."""
        plan = (ctypes.c_int * 3)()
        getattr(self.calls, f"plan_of_{call.name}_sm90a")(call.params, plan)
        return tuple(plan)


@build
def sm90a_library(folder, sm90a_kernels) -> Path:
    return compile_for_host(folder / "conv_sm90a.so", sm90a_kernels, "-shared")


@build
def racing_sm90a_library(folder, race_detector) -> Path:
    release = (
        "if (previous && threadIdx.x % kWarp == 0) mbarrier_arrive(previous);\n        previous = empty_ + place_;"
    )
    early = "previous = empty_ + place_;\n        if (threadIdx.x % kWarp == 0) mbarrier_arrive(previous);"
    sources = faulty_sources(
        folder,
        ("wgmma_gemm_sm90a.cuh", release, early),
        ("conv_gemm_weight_grad_sm90a.cu", "static_cast<int64_t>(tile.split) * args.taps + ", ""),
        ("conv_gemm_sm90a.cu", "grid_sync();\n  for (int c", "for (int c"),
    )
    return compile_with_races(folder / "races.so", SOURCE, race_detector, "-shared", csrc=sources)


@pytest.fixture(scope="module")
def library(sm90a_library) -> Library:
    return Library(sm90a_library)


def channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def pointers(**tensors: torch.Tensor) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


class Layer:
    """Coarse images (N, C, h, w), fine ones (N, c, H, W) and weights (C, c, k, k), with random elements."""

    def __init__(self, samples, side, coarse, fine, geometry, dtype=torch.bfloat16, width=0):
        self.kernel, self.stride, self.padding, self.output_padding = geometry
        self.dtype, self.coarse, self.fine, self.samples = dtype, coarse, fine, samples
        self.coarse_size = (side, width or side)
        self.fine_size = tuple(
            (s - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding for s in self.coarse_size
        )
        square = [v for v in (self.kernel, self.stride, self.padding) for _ in range(2)]
        self.shape = ConvShape(samples, *self.coarse_size, coarse, *self.fine_size, fine, *square)
        self.generator = torch.Generator().manual_seed(samples * 1000 + side + coarse + fine)

    def random(self, *size: int) -> torch.Tensor:
        return torch.randn(size, generator=self.generator).to(self.dtype)

    def coarse_image(self) -> torch.Tensor:
        return channels_last(self.random(self.samples, self.coarse, *self.coarse_size))

    def fine_image(self) -> torch.Tensor:
        return channels_last(self.random(self.samples, self.fine, *self.fine_size))

    def weight(self) -> torch.Tensor:
        return channels_last(self.random(self.coarse, self.fine, self.kernel, self.kernel) / 8)


class Convolution:
    """A layer's convolution from its fine images to its coarse ones (down), or transposed, back (up)."""

    name = "conv_gemm"

    def __init__(self, layer: Layer, direction: str, epilogue: int = STATISTICS, activation: str = "none"):
        self.layer, self.direction = layer, direction
        self.activation, self.epilogue = activation, epilogue
        up = direction == "up"
        self.x, out = (layer.coarse_image(), layer.fine_image()) if up else (layer.fine_image(), layer.coarse_image())
        self.weight = layer.weight()
        channels = out.shape[1]
        self.bias = layer.random(channels)
        self.out, self.z = out.fill_(torch.nan), torch.full_like(out, torch.nan)
        self.moments = torch.full((3, channels), torch.nan)
        self.norm = {name: layer.random(channels).float() for name in ("mean", "invstd", "gamma", "beta")}
        moments = dict(zip(("mean", "var", "invstd"), self.moments, strict=True))
        self.params = ConvGemmParams(
            shape=layer.shape, direction=DIRECTIONS[direction], dtype=DTYPES[layer.dtype],
            weight_layout=CHANNELS_LAST, epilogue=epilogue, eps=EPS, negative_slope=SLOPE,
            activation=ACTIVATIONS[activation], channels=BnChannels(**pointers(**self.norm)),
            **pointers(x=self.x, weight=self.weight, bias=self.bias, out=self.out, z=self.z, **moments),
        )  # fmt: skip

    def formula(self, dtype: torch.dtype) -> torch.Tensor:
        layer = self.layer
        x, weight, bias = (t.to(dtype) for t in (self.x, self.weight, self.bias))
        if self.direction == "up":
            z = conv_transpose2d(x, weight, bias, layer.stride, layer.padding, layer.output_padding)
        else:
            z = conv2d(x, weight, bias, layer.stride, layer.padding)
        if self.epilogue != NORMALISE:
            return z
        mean, invstd, gamma, beta = (v.to(dtype).view(1, -1, 1, 1) for v in self.norm.values())
        return act((z - mean) * gamma * invstd + beta, self.activation)

    def check(self) -> None:
        exact, baseline = self.formula(torch.float64), self.formula(torch.float32).to(self.layer.dtype)
        assert_within_oracle(self.out, exact, baseline, "out")
        if self.epilogue == STATISTICS:
            self.check_statistics()
        else:
            assert self.moments.isnan().all()

    def check_statistics(self) -> None:
        z = self.out.double().transpose(0, 1).flatten(1)  # of z as stored
        exact = [z.mean(1), z.var(1, correction=0)]
        exact.append((exact[1] + EPS).rsqrt())
        for name, actual, oracle in zip(("mean", "var", "invstd"), self.moments, exact, strict=True):
            scale = z.std(1, correction=0) if name == "mean" else None
            assert_within_oracle(actual, oracle, oracle.float(), name, scale=scale, ulps=SUM_ULPS)

    def bits(self) -> tuple[bytes, ...]:
        images = (image.view(torch.int16).numpy().tobytes() for image in (self.out, self.z))
        return *images, self.moments.numpy().tobytes()


class WeightGradient:
    name = "conv_gemm_weight_grad"

    def __init__(self, layer: Layer, contiguous: bool = False):
        self.layer = layer
        self.coarse, self.fine, grad = layer.coarse_image(), layer.fine_image(), layer.weight()
        self.grad = (grad.contiguous() if contiguous else grad).fill_(torch.nan)
        self.params = ConvWeightGradParams(
            shape=layer.shape, dtype=DTYPES[layer.dtype], weight_layout=0 if contiguous else CHANNELS_LAST,
            **pointers(coarse=self.coarse, fine=self.fine, grad_weight=self.grad),
        )  # fmt: skip

    def check(self) -> None:
        layer = self.layer
        coarse, fine = self.coarse.double(), self.fine.double()
        sizes = dict(weight_size=self.grad.shape, stride=layer.stride, padding=layer.padding)
        exact = conv2d_weight(fine, grad_output=coarse, **sizes)
        magnitude = conv2d_weight(fine.abs(), grad_output=coarse.abs(), **sizes)
        assert_within_float_sums(self.grad, exact, magnitude, coarse[:, 0].numel())

    def bits(self) -> bytes:
        return self.grad.view(torch.int16).numpy().tobytes()


LAYERS = [
    Layer(1, 1, 8, 8, K4, torch.float16),  # one coarse pixel
    Layer(9, 4, 64, 64, K4),  # samples of several tiles, the last one short
    Layer(1, 5, 8, 200, K4, torch.float16, width=9),  # odd sides, two blocks of columns of Up, the last one short
    Layer(1, 3, 264, 16, K4, width=40),  # many steps a tap; wider than high
    Layer(9, 4, 24, 136, K4),  # Up: 256 x 128
    Layer(5, 16, 72, 8, K3),  # Down: 256 x 128
    Layer(1, 6, 264, 24, K3),  # Up: splits
    Layer(2, 5, 24, 16, K5),
    Layer(2, 5, 24, 16, K3_UP),
    Layer(2, 5, 24, 16, K2),
    Layer(1, 32, 24, 16, K1, width=48),  # weight gradient: splits
]
layers = pytest.mark.parametrize("layer", LAYERS, ids=range(len(LAYERS)))


def test_the_layers_take_every_tile_and_splits(library):
    """Otherwise the tests below say nothing about some of the code."""
    taken = set()
    for layer in LAYERS:
        for name, call in (
            *((direction, Convolution(layer, direction)) for direction in DIRECTIONS),
            ("weight gradient", WeightGradient(layer)),
        ):
            rows, columns, splits = library.plan(call)
            taken |= {(name, rows, columns), (name, splits > 1)}
    assert taken == {
        *((d, rows, columns) for d in DIRECTIONS for rows, columns in ((128, 64), (128, 128), (256, 128))),
        *(("weight gradient", 128, columns) for columns in (64, 128)),
        *((name, split) for name in (*DIRECTIONS, "weight gradient") for split in (False, True)),
    }


@pytest.mark.parametrize("what", [*DIRECTIONS, "weight gradient"])
def test_kernel_4_in_every_order_and_timing(library, what):
    layer = Layer(3, 4, 72, 136, K4)
    call = Convolution(layer, what) if what in DIRECTIONS else WeightGradient(layer)
    bits = set()
    for order, landing in MODES:
        assert library.run(call, order, landing) is None
        call.check()
        bits.add(call.bits())
    assert len(bits) == 1, "the order of threads changes the result"


@pytest.mark.parametrize("direction", DIRECTIONS)
@layers
def test_convolution(library, layer, direction):
    call = Convolution(layer, direction)
    assert library.run(call) is None
    call.check()


@layers
def test_weight_gradient(library, layer):
    call = WeightGradient(layer)
    assert library.run(call) is None
    call.check()


def test_gradient_of_a_contiguous_weight(library):
    for layer in (LAYERS[2], LAYERS[10]):  # one split, several
        call = WeightGradient(layer, contiguous=True)
        assert library.run(call) is None
        call.check()


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
@pytest.mark.parametrize(("number", "direction"), [(2, "up"), (2, "down"), (4, "up")], ids=str)
def test_normalise(library, number, direction, activation):
    """Tiles of both heights, and a split product."""
    call = Convolution(LAYERS[number], direction, NORMALISE, activation)
    assert library.run(call) is None
    call.check()


@pytest.mark.parametrize(("number", "direction"), [(1, "down"), (4, "up"), (5, "down")], ids=str)
def test_batch_norm_in_one_launch(library, number, direction):
    """z and its statistics are those of Statistics, out is theirs."""
    layer = LAYERS[number]
    call = Convolution(layer, direction, BATCH_NORM, "leaky_relu")
    two_launches = Convolution(layer, direction)
    for name in ("x", "weight", "bias"):
        getattr(two_launches, name).copy_(getattr(call, name))
    assert library.plan(call)[2] == library.plan(two_launches)[2] == 1
    for order, landing in (("forward", 0), ("random", 1)):
        assert library.run(call, ORDERS[order], landing) is None
        assert library.run(two_launches) is None
        assert torch.equal(call.z, two_launches.out) and torch.equal(call.moments, two_launches.moments)
        mean, _, invstd, gamma, beta = (
            v.double().view(1, -1, 1, 1) for v in (*call.moments, call.norm["gamma"], call.norm["beta"])
        )
        z = call.z.double()
        exact = act((z - mean) * (gamma * invstd) + beta, "leaky_relu")
        # roundings of the difference, the scale, the multiply-add and the slope
        magnitude = (z.abs() + mean.abs()) * (gamma * invstd).abs() + beta.abs()
        assert_within_float_sums(call.out, exact, magnitude, 5)
        call.out.fill_(torch.nan)


def test_batch_norm_of_more_tiles_than_multiprocessors_is_refused(library):
    call = Convolution(Layer(40, 8, 72, 8, K4), "down", BATCH_NORM)
    assert library.run(call) == "launch returned error 801"


def test_without_statistics_nothing_but_the_product_is_written(library):
    call = Convolution(LAYERS[1], "up", STORE)
    assert library.run(call) is None
    call.check()


def test_what_is_not_covered_is_refused(library):
    calls = [Convolution(LAYERS[1], "up", NORMALISE, "tanh"), Convolution(LAYERS[1], "up", BATCH_NORM, "tanh")]
    not_whole_chunks = Layer(1, 4, 8, 12, K4)
    calls += [Convolution(not_whole_chunks, "up"), WeightGradient(not_whole_chunks)]
    for call in calls:
        assert library.run(call) == "launch returned error 801"  # cudaErrorNotSupported


def test_faults_are_races(racing_sm90a_library):
    library = Library(racing_sm90a_library)
    released_while_read = library.run(Convolution(Layer(1, 4, 72, 72, K4), "up"))
    assert "race on shared memory" in released_while_read and "wgmma's read" in released_while_read
    one_place_for_all_splits = library.run(WeightGradient(LAYERS[10]))
    assert "race on global memory" in one_place_for_all_splits and "_weight_grad_sm90a.cu" in one_place_for_all_splits
    combined_too_early = library.run(Convolution(Layer(1, 12, 16, 72, K1), "up", BATCH_NORM))
    assert "race on global memory" in combined_too_early and "conv_gemm_sm90a.cu" in combined_too_early
