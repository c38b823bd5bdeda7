"""The GPU as one more implementation under test, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastgan.ops import _dispatch

ON_GPU = ["kernel on cuda"] if _dispatch.has_cuda_kernels() and torch.cuda.is_available() else []


@contextmanager
def on_gpu() -> Iterator[None]:
    """What is made in this block, naming no device, lies on the GPU; its products of float32 are not taken in TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.device("cuda"):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
