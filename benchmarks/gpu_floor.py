"""Floors of the memory-bound passes over the BatchNorm layers of DCGAN at 64 px, and of its critic's optimiser step.

    python benchmarks/gpu_floor.py [--batch-size 128] [--copy-speed BYTES_PER_SECOND]

Needs no GPU: it counts bytes (fastgan/bench/floor.py) and divides by the speed of a copy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from fastgan import create
from fastgan.bench.floor import bytes_of
from fastgan.bench.shapes import CHANNELS, DISCRIMINATOR, GENERATOR, IMAGE_SIZE

COPY_BYTES_PER_SECOND = 4.3e12  # of a device-to-device copy on one NVIDIA H200, bytes read plus bytes written
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--copy-speed", type=float, default=COPY_BYTES_PER_SECOND, help="bytes read plus written, a second"
    )
    options = parser.parse_args()
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
