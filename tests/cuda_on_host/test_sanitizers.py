"""The kernels under the address and undefined-behaviour sanitizers; faults put into a copy of the sources are found."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .toolchain import HERE, build, compile_for_host, faulty_sources

# `undefined` is all that g++ has of it: bounds, null, alignment, signed overflow, shifts, division by zero, values of
# bool and enum, pointer overflow and more, but not float-cast-overflow. A float divided by zero is no error.
SANITIZE = ["-O0", "-g1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]


@build
def sanitized_sweep(folder) -> Path:
    return compile_for_host(folder / "sweep", HERE / "sweep.cpp", *SANITIZE)


@build
def sanitized_sweep_conv(folder) -> Path:
    return compile_for_host(folder / "sweep", HERE / "sweep_conv.cpp", *SANITIZE)


@build
def faulty_sweep(folder) -> Path:
    """bn_stats that ignores its input's alignment, bn_act that runs past its end, leaky_mask_mul past its registers."""
    sources = faulty_sources(
        folder,
        ("bn_stats.cu", "aligned16(p.z) && ", ""),
        ("channel_map.cuh", "    if (i < vectors) {\n", "    {\n"),
        ("leaky_mask_mul.cu", "v < V; ++v) t[v] *= y[v]", "v < V; ++v) t[v] *= y[v + 1]"),
    )
    return compile_for_host(folder / "sweep", HERE / "sweep_some.cpp", *SANITIZE, csrc=sources)


def run(executable: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([executable, *arguments], capture_output=True, text=True, env=environment, timeout=120)


def test_the_kernels_stay_inside_their_memory_and_the_language(sanitized_sweep):
    done = run(sanitized_sweep)
    assert done.returncode == 0, done.stdout + done.stderr


def test_so_do_the_convolutions(sanitized_sweep_conv):
    done = run(sanitized_sweep_conv)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_vector_load_off_its_alignment_is_found(faulty_sweep):
    done = run(faulty_sweep, "bn_stats")
    assert done.returncode != 0
    assert "misaligned address" in done.stderr and "vec.cuh" in done.stderr


def test_an_access_out_of_bounds_is_found(faulty_sweep):
    done = run(faulty_sweep, "bn_act")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def test_an_index_past_a_register_array_is_found(faulty_sweep):
    done = run(faulty_sweep, "leaky_mask_mul")
    assert done.returncode != 0
    assert "out of bounds for type 'float" in done.stderr and "leaky_mask_mul.cu" in done.stderr
