"""The least a memory-bound op can cost: bytes that must pass through device memory, and their time at copy speed.

Every element of every tensor is counted once where it is read and once where it is written; vectors of one value a
channel or sample are not counted. A kernel near its floor has nothing left to gain but fewer passes.

    bytes_of("bn_act", [(128, 64, 32, 32)], torch.bfloat16)          # 33554432
    seconds_at_copy_speed(33554432)                                  # 7.8e-06
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["COPY_BYTES_PER_SECOND", "bytes_of", "seconds_at_copy_speed"]

# Of a device-to-device copy on one NVIDIA H200, bytes read plus bytes written; pass what was measured in the same run.
COPY_BYTES_PER_SECOND = 4.3e12

# Tensors of the op's size that are read plus those that are written.
PASSES = {
    "bn_stats": 1,  # z
    "bn_act": 2,  # z; y
    "bn_act_backward_reduce": 2,  # grad_y, z
    "bn_act_backward_elemt": 3,  # grad_y, z; grad_z
    "activation": 2,  # y; y
    "activation_backward": 3,  # grad_y, y; grad_z
    "interpolate": 3,  # real, fake; out
    "penalty": 2,  # grad; grad_penalty
    "leaky_mask_mul": 3,  # t, y; out
    "clip_weights_": 2,  # w; w
    "rmsprop_clip_": 5,  # w, g, square_avg; w, square_avg
}
STATES_OF_RMSPROP = ("centered", "momentum")  # each one more list, read and written
TANH_READS_Y_TOO = ("bn_act_backward_reduce", "bn_act_backward_elemt")


def bytes_of(op: str, shapes: Sequence[Sequence[int]], dtype: torch.dtype, *options: str) -> int:
    """Bytes that ``op`` must read and write.

    Args:
        op: as in ``fastgan.ops``, a key of ``PASSES``.
        shapes: of the tensors the op works on: one activation or image batch, or a list of parameters.
        dtype: of all of them.
        options: "tanh" for the backward passes of BatchNorm and activation, "centered" and "momentum" for
            rmsprop_clip_.

    Raises:
        ValueError: an op or option that there is none of.
    """
    if op not in PASSES:
        raise ValueError(f"op is {op!r}; it takes one of {', '.join(PASSES)}")
    allowed = STATES_OF_RMSPROP if op == "rmsprop_clip_" else ("tanh",) if op in TANH_READS_Y_TOO else ()
    for option in options:
        if option not in allowed:
            raise ValueError(f"option of {op} is {option!r}; it takes {' or '.join(allowed) or 'none'}")
    passes = PASSES[op] + sum(2 if option in STATES_OF_RMSPROP else 1 for option in options)
    return passes * dtype.itemsize * sum(math.prod(shape) for shape in shapes)


def seconds_at_copy_speed(count: int, bytes_per_second: float = COPY_BYTES_PER_SECOND) -> float:
    """The time in which a copy moves ``count`` bytes, reading half of them and writing the other half."""
    return count / bytes_per_second
