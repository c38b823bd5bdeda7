"""Tests of the tester: faults put into a copy of the kernel sources are found, and the sources as they are pass."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from .structs import ORDERS, ImageShape, Kernels
from .toolchain import CSRC, HERE, compile_for_host

SANITIZE = ["-O0", "-g1", "-fsanitize=address,alignment", "-fno-sanitize-recover=all"]


def faulty_sources(folder: Path, *faults: tuple[str, str, str]) -> Path:
    """A copy of csrc with each (file of cuda/, text, replacement) applied; the text must stand there exactly once."""
    copy = Path(shutil.copytree(CSRC, folder / "csrc"))
    for name, text, replacement in faults:
        file = copy / "cuda" / name
        source = file.read_text()
        assert source.count(text) == 1, f"{name} no longer holds {text!r} once: adapt this fault"
        file.write_text(source.replace(text, replacement))
    return copy


def sweep(executable: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([executable, *arguments], capture_output=True, text=True, env=environment, timeout=120)


def test_the_kernels_stay_inside_their_memory(tmp_path):
    done = sweep(compile_for_host(tmp_path / "sweep", HERE / "sweep.cpp", *SANITIZE))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def faulty_sweep(tmp_path_factory) -> Path:
    """bn_stats that ignores its input's alignment, bn_act that runs past its end; bn_stats comes first."""
    folder = tmp_path_factory.mktemp("faulty")
    sources = faulty_sources(
        folder,
        ("bn_stats.cu", "aligned16(p.z) && ", ""),
        ("channel_map.cuh", "    if (i < vectors) {\n", "    {\n"),
    )
    return compile_for_host(folder / "sweep", HERE / "sweep.cpp", *SANITIZE, csrc=sources)


def test_a_vector_load_off_its_alignment_is_found(faulty_sweep):
    done = sweep(faulty_sweep, "bn_stats")
    assert done.returncode != 0
    assert "misaligned address" in done.stderr and "vec.cuh" in done.stderr


def test_an_access_out_of_bounds_is_found(faulty_sweep):
    done = sweep(faulty_sweep)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def test_missing_barriers_are_found(tmp_path):
    """Without its barrier, block_reduce spoils NCHW statistics and column_reduce NHWC ones, in some thread order."""
    barrier = "__syncthreads();\n"
    sources = faulty_sources(
        tmp_path,
        ("reduce.cuh", f"  {barrier}  if (warp == 0)", "  if (warp == 0)"),
        ("reduce.cuh", f"  {barrier}  const int lane = thread", "  const int lane = thread"),
    )
    library = compile_for_host(tmp_path / "k.so", HERE / "kernels.cpp", "-O0", "-shared", "-fPIC", csrc=sources)
    kernels = Kernels(library)
    z = torch.arange(3 * 4 * 64, dtype=torch.float32)
    for layout in (0, 1):
        wrong = []
        for order in ORDERS:
            kernels.set_order(order)
            mean, var = torch.full((4,), math.nan), torch.full((4,), math.nan)
            kernels.call("bn_stats", z=z, shape=ImageShape(3, 4, 64, layout), dtype=0, mean=mean, var=var)
            image = z.view(3, 4, 64) if layout == 0 else z.view(3, 64, 4).transpose(1, 2)
            wrong.append(not torch.allclose(mean, image.mean((0, 2)), rtol=1e-5))
        assert any(wrong), f"layout {layout}: the missing barrier went unnoticed"
