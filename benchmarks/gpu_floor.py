"""Floors of the memory-bound passes over the BatchNorm layers of DCGAN at 64 px, and of its critic's optimiser step.

    python benchmarks/gpu_floor.py [--batch-size 128] [--copy-speed BYTES_PER_SECOND]
    python benchmarks/gpu_floor.py --products      the convolutions of its hidden layers, and how kernels cut them

Needs no GPU: it counts bytes and operations (fastgan/bench/floor.py) and divides by the speed of a copy and of a matrix
product; the cut is what csrc/cuda/conv_gemm*.cu answers, compiled for the CPU: by g++ with the toolkit's headers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from fastgan import create
from fastgan.bench.floor import bytes_of, layer_work
from fastgan.bench.shapes import CHANNELS, CUDA_BATCH_SIZE, DISCRIMINATOR, GENERATOR, IMAGE_SIZE, ConvLayer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cuda_on_host.structs import DTYPES, ConvShape, Kernels

COPY_BYTES_PER_SECOND = 4.3e12  # of a device-to-device copy on one NVIDIA H200, bytes read plus bytes written
PRODUCT_FLOPS_PER_SECOND = 7.9e14  # of a bfloat16 product by cuBLAS, which runs wgmma, on one NVIDIA H200
MULTIPROCESSORS = 132
# Blocks that a multiprocessor holds, by tile; by registers (ptxas, sm_90) and shared memory.
RESIDENT = {(128, 128): 2, (128, 64): 4, (64, 64): 5}
RESIDENT_WEIGHT_GRADIENT = {128: 2, 64: 4}
UP, DOWN = 0, 1
NORM_PASSES = ("bn_stats", "bn_act", "bn_act_backward_reduce", "bn_act_backward_elemt")
PENALTY_PASSES = ("interpolate", "penalty")
OPTIMIZER_PASSES = ("clip_weights_", "rmsprop_clip_")


def rows(batch_size: int) -> Iterator[tuple[str, tuple[str, ...], list[tuple[int, ...]]]]:
    """(name, the ops that pass over it, shapes)."""
    for layer in (*GENERATOR, *DISCRIMINATOR):
        if layer.norm:
            yield layer.name, NORM_PASSES, [(batch_size, layer.c_out, layer.out_size, layer.out_size)]
    yield "images", PENALTY_PASSES, [(batch_size, CHANNELS, IMAGE_SIZE, IMAGE_SIZE)]
    critic = create("wgan", image_size=IMAGE_SIZE).critic
    yield "WGAN critic", OPTIMIZER_PASSES, [tuple(p.shape) for p in critic.parameters()]


def products(kernels: Kernels, batch_size: int = CUDA_BATCH_SIZE) -> list[str]:
    """The three products of DCGAN's hidden layers in bfloat16, as a table in Markdown."""
    lines = ["| product | GFLOP | MB | floor, us: operations / bytes | tile | steps | splits | blocks | waves |"]
    lines.append("|---" * 9 + "|")
    for layer in GENERATOR[1:4]:
        coarse, fine = (f"{c}, {side}x{side}" for c, side in ((layer.c_in, layer.size), (layer.c_out, layer.out_size)))
        pairs = [layer.kernel_size] * 2, [layer.stride] * 2, [layer.padding] * 2
        sizes = [batch_size, layer.size, layer.size, layer.c_in, layer.out_size, layer.out_size, layer.c_out]
        fields = {"shape": ConvShape(*sizes, *sum(pairs, [])), "dtype": DTYPES[torch.bfloat16], "weight_layout": 1}
        for name, direction in (
            (f"Up, coarse {coarse}, {layer.c_out}", UP),
            (f"Down, fine {fine}, {layer.c_in}", DOWN),
        ):
            cut = kernels.plan("conv_gemm", MULTIPROCESSORS, direction=direction, **fields)
            lines.append(_product(name, layer, batch_size, cut, RESIDENT[cut[0], cut[1]]))
        cut = kernels.plan("conv_gemm_weight_grad", MULTIPROCESSORS, **fields)
        name = f"weight gradient {coarse}, {layer.c_out}"
        lines.append(_product(name, layer, batch_size, cut, RESIDENT_WEIGHT_GRADIENT[cut[0]]))
    return lines


def _product(name: str, layer: ConvLayer, batch_size: int, cut: list[int], resident: int) -> str:
    work = layer_work(
        layer, batch_size, "eval", torch.bfloat16
    )  # each image and the weight once, as of any of the three
    tile_m, tile_n, splits, steps, blocks = cut
    floors = f"{work.flops / PRODUCT_FLOPS_PER_SECOND * 1e6:.1f} / {work.bytes / COPY_BYTES_PER_SECOND * 1e6:.1f}"
    waves = blocks / (MULTIPROCESSORS * resident)
    cells = [name, f"{work.flops / 1e9:.1f}", f"{work.bytes / 1e6:.1f}", floors]
    cells += [f"{tile_m}x{tile_n}", steps, splits, blocks, f"{waves:.2f}"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--copy-speed", type=float, default=COPY_BYTES_PER_SECOND, help="bytes read plus written, a second"
    )
    parser.add_argument("--products", action="store_true", help="convolutions on tensor cores, as a table in Markdown")
    options = parser.parse_args()
    if options.products:
        from cuda_on_host.toolchain import compile_kernels  # needs pytest

        with tempfile.TemporaryDirectory() as folder:
            print(*products(Kernels(compile_kernels(Path(folder))), options.batch_size), sep="\n")
        return
    print(f"{'tensors':18} {'op':24} {'bf16 MB':>8} {'bf16 us':>8} {'fp32 MB':>8} {'fp32 us':>8}")
    for name, ops, shapes in rows(options.batch_size):
        for op in ops:
            cells = []
            for dtype in (torch.bfloat16, torch.float32):
                count = bytes_of(op, shapes, dtype)
                cells += [f"{count / 1e6:8.2f}", f"{count / options.copy_speed * 1e6:8.2f}"]
            print(f"{name:18} {op:24} {' '.join(cells)}")


if __name__ == "__main__":
    main()
