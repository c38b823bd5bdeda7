"""Sweep of convolution shapes: what the cost model chooses, and how that compares with PyTorch.

    python benchmarks/sweep_convolutions.py [--out FILE] [--quick] [--geometry k3s1 ...] [--layers]

Every row is one product (output, gradient of x, gradient of the weight) of one convolution, float32. PyTorch's time is
the faster of NCHW and channels_last; fastgan's is that of the implementation that its model chooses, in channels_last.
Times are medians of interleaved rounds in one process. Printed are the worst rows of the choice, and the rows where
another choice would have been 10% faster.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from fastgan import ops
from fastgan.ops import _library

PRODUCTS = ("output", "input gradient", "weight gradient")
OWN = ("winograd", "thin", "matmul")
SECONDS = 0.06  # of rounds for one implementation of one product
GEOMETRIES = {"k4s2": (4, 2), "k3s1": (3, 1), "k3s2": (3, 2), "k5s2": (5, 2)}  # kernel, stride


class Shape(NamedTuple):
    transposed: bool
    batch: int
    small: int  # channels of the small side, and of the large one
    large: int
    height: int  # of the small side; 0: an end, 1x1 on one side and the kernel on the other
    width: int
    kernel: int = 4
    stride: int = 2


# Layers of published GANs.
LAYERS = (
    Shape(False, 16, 64, 64, 24, 24, 3, 1),  # SRGAN
    Shape(False, 4, 64, 64, 96, 96, 3, 1),
    *(Shape(False, 64, c, c, size, size, 3, 1) for c in (128, 256) for size in (32, 16, 8)),  # ResNet GANs
    Shape(False, 4, 128, 64, 64, 64, 3, 2),  # CycleGAN
    Shape(True, 1, 256, 128, 64, 64, 3, 2),
    *(Shape(t, 64, 32 * 128 // s, 16 * 128 // s, s, s, 5, 2) for t in (True, False) for s in (8, 16, 32)),  # DCGAN
)


def shapes(quick: bool) -> Iterator[Shape]:
    """Layers of each geometry, and ends without padding between 1x1 and the kernel."""
    batches = (1, 4, 16, 64)
    channels = ((16, 8), (32, 16), (32, 32), (64, 32), (64, 64), (128, 64), (256, 128), (512, 256), (48, 24), (100, 50))
    sizes = ((2, 2), (3, 3), (4, 4), (5, 7), (8, 8), (16, 16), (32, 32))
    for (kernel, stride), transposed, n, (small, large), (h, w) in itertools.product(
        GEOMETRIES.values(), (True, False), batches, channels, sizes
    ):
        elements = n * small * h * w
        if elements > 1 << 21 or (n == 4 and h > 8) or (h * w < 16 and large > 128 and n == 16):
            continue
        if quick and (small, large) not in ((32, 32), (256, 128)):
            continue
        yield Shape(transposed, n, small, large, h, w, kernel, stride)
    for transposed, n, small, large, size in itertools.product(
        (True, False), (1, 16, 64), (32, 64, 128), (1, 3, 4), (8, 32)
    ):
        yield Shape(transposed, n, small, large, size, size)
    for transposed, n, large in itertools.product((True, False), (1, 16, 64), (1, 64, 512)):
        yield Shape(transposed, n, 100 if transposed else 512, large, 0, 0)


class Case:
    """The tensors of one shape in one memory format, and its three products by one implementation."""

    def __init__(self, shape: Shape, memory_format: torch.memory_format) -> None:
        transposed, n, small, large, h, w, kernel, scale = shape
        end = h == 0
        small_size, large_size = ((1, 1), (kernel, kernel)) if end else ((h, w), (scale * h, scale * w))
        stride, padding = (1, 0) if end else (scale, (kernel - 1) // 2)
        output_padding = stride + 2 * padding - kernel if transposed and not end else 0
        x = (n, small, *small_size) if transposed else (n, large, *large_size)
        y = (n, large, *large_size) if transposed else (n, small, *small_size)
        g = torch.Generator().manual_seed(0)
        self.x, self.grad, self.weight = (
            torch.randn(s, generator=g).contiguous(memory_format=memory_format)
            for s in (x, y, (small, large, kernel, kernel))
        )
        self.options = ([stride] * 2, [padding] * 2, [1, 1], transposed, [output_padding] * 2, 1)

    def plan(self) -> tuple[str, str, str]:
        return _library.C.convolution_plan(
            list(self.x.shape), list(self.weight.shape), *self.options, "float32", torch.get_num_threads()
        )

    def product(self, index: int, kernel: str) -> Callable[[], object]:
        if index == 0:
            by_aten = lambda: torch.ops.aten.convolution(self.x, self.weight, None, *self.options)  # noqa: E731
            by_us = lambda: torch.ops.fastgan.convolution(self.x, self.weight, None, *self.options, False)  # noqa: E731
        else:
            mask = (index == 1, index == 2, False)
            tensors = (self.grad, self.x, self.weight)
            by_aten = lambda: torch.ops.aten.convolution_backward(*tensors, None, *self.options, mask)  # noqa: E731
            by_us = lambda: torch.ops.fastgan.convolution_backward(*tensors, *self.options, *mask, False)  # noqa: E731
        if kernel == "aten":
            return by_aten

        def planned() -> object:
            _library.C.set_convolution_plan(kernel)
            try:
                return by_us()
            finally:
                _library.C.set_convolution_plan("auto")

        return planned


def medians(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each, from interleaved rounds."""
    once = {}
    for name, function in functions.items():
        function()
        started = time.perf_counter()
        function()
        once[name] = time.perf_counter() - started
    rounds = int(min(max(SECONDS / max(once.values()), 5), 60))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def covered(case: Case) -> list[str]:
    """The implementations that can compute this convolution."""
    found = []
    for kernel in OWN:
        _library.C.set_convolution_plan(kernel)
        if kernel in case.plan():
            found.append(kernel)
    _library.C.set_convolution_plan("auto")
    return found


def measure(shape: Shape) -> Iterator[dict]:
    first, last = Case(shape, torch.contiguous_format), Case(shape, torch.channels_last)
    own, plan = covered(last), last.plan()
    for index, product in enumerate(PRODUCTS):
        functions = {"aten": first.product(index, "aten"), "aten channels_last": last.product(index, "aten")}
        functions |= {kernel: last.product(index, kernel) for kernel in own}
        times = medians(functions)
        yield {"shape": shape, "product": product, "plan": plan[index], "milliseconds": times}


def speed_up(row: dict) -> float:
    times = row["milliseconds"]
    if row["plan"] == "aten":
        return 1.0
    return min(times["aten"], times["aten channels_last"]) / times[row["plan"]]


def line(row: dict) -> str:
    transposed, n, small, large, h, w, kernel, stride = row["shape"]
    where = (
        f"{small:4d} {'->' if transposed else '<-'} {large:<4d} @{h}x{w} k{kernel}s{stride}"
        if h
        else f"{small:4d} end {large:<4d} k{kernel}"
    )
    times = "  ".join(f"{name} {value:.3f}" for name, value in row["milliseconds"].items())
    return f"{speed_up(row):5.2f}x  batch {n:3d} {where:27s} {row['product']:15s} {row['plan']:9s} {times}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a .json file for all rows")
    parser.add_argument("--quick", action="store_true", help="a tenth of the shapes")
    parser.add_argument("--geometry", nargs="+", choices=GEOMETRIES, default=list(GEOMETRIES), help="only these")
    parser.add_argument(
        "--layers", action="store_true", help="a few layers of published GANs instead, every row printed"
    )
    arguments = parser.parse_args()
    geometries = [GEOMETRIES[name] for name in arguments.geometry]
    candidates = LAYERS if arguments.layers else shapes(arguments.quick)
    wanted = [shape for shape in candidates if (shape.kernel, shape.stride) in geometries]
    with ops.use("kernel"):
        rows = [row for shape in wanted for row in measure(shape)]
    if arguments.out:
        facts = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "capability": _library.C.cpu_capability(),
        }
        arguments.out.write_text(json.dumps({**facts, "rows": rows}, indent=None, separators=(",", ":")) + "\n")
    if arguments.layers:
        for row in rows:
            print(line(row))
        return
    by_us = [row for row in rows if row["plan"] != "aten"]
    print(f"{len(wanted)} shapes, {len(rows)} products; {len(by_us)} by fastgan's kernels, median "
          f"{statistics.median(map(speed_up, by_us)):.2f}x of the faster PyTorch; the 20 worst:")  # fmt: skip
    for row in sorted(by_us, key=speed_up)[:20]:
        print(line(row))
    missed = []
    for row in rows:
        times = row["milliseconds"]
        best = min(times, key=times.get)
        chosen = min(times["aten"], times["aten channels_last"]) if row["plan"] == "aten" else times[row["plan"]]
        if best in OWN and times[best] < 0.9 * chosen:
            missed.append((times[best] / chosen, row))
    print(f"{len(missed)} products for which another kernel is 10% faster; the 10 largest gains left:")
    for _, row in sorted(missed, key=lambda pair: pair[0])[:10]:
        print(line(row))


if __name__ == "__main__":
    main()
