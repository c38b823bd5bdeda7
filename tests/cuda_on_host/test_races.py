"""Every kernel of csrc/cuda under the race detector: none races, and one without its barrier does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .structs import PARAMS
from .toolchain import CSRC, HERE, compile_with_races, faulty_sources, line_of


def sweep(folder: Path, detector: Path, source: str = "sweep.cpp", csrc: Path = CSRC) -> str:
    executable = compile_with_races(folder / "sweep", HERE / source, detector, csrc=csrc)
    return subprocess.run([executable], capture_output=True, text=True, timeout=120).stdout


def test_no_kernel_races(tmp_path, race_detector):
    ran = set()
    for source in ("sweep.cpp", "sweep_conv.cpp"):
        output = sweep(tmp_path, race_detector, source)
        assert output.endswith("\n0 failures\n"), output
        ran |= set(re.findall(r"^ran (\w+)$", output, re.MULTILINE))
    assert ran == PARAMS.keys(), "the sweeps leave a kernel out"


def test_a_missing_barrier_is_a_race_between_two_lines(tmp_path, race_detector):
    """block_reduce (NCHW) and column_reduce (NHWC), each without its barrier."""
    barrier = "__syncthreads();\n"
    sources = faulty_sources(
        tmp_path,
        ("reduce.cuh", f"  {barrier}  if (warp == 0)", "  if (warp == 0)"),
        ("reduce.cuh", f"  {barrier}  const int lane = thread", "  const int lane = thread"),
    )
    output = sweep(tmp_path, race_detector, csrc=sources)
    reduce = sources / "cuda" / "reduce.cuh"
    for written, read in (
        ("if (lane == 0) of_warp[warp] = a;", "of_warp[lane] : A{}"),
        ("held[v * kStride + thread] = a[v];", "sum = merge(sum, held[v * kStride"),
    ):
        first = rf"load by thread \d+ at {reduce}:{line_of(reduce, read)}"
        second = rf"store by thread \d+ at {reduce}:{line_of(reduce, written)}"
        assert re.search(rf"bn_stats: .*race on shared memory.*\n  first:  {first}\n  second: {second}", output), output


def test_a_missing_barrier_of_a_convolution_is_a_race(tmp_path, race_detector):
    """Of 64 x 64 tiles the barrier between the copies and their readers, of larger ones the grid's in front of the
    combined statistics. One type of element is compiled alone, as this takes long."""
    tile, of_step = "conv_gemm_tile.cuh", "__syncthreads();  // this step is here"
    all_types = "with_dtype(dtype, [&](auto element) { return body(TensorCores<decltype(element)>{}); })"
    grid = "  grid_sync();\n  for (int c = blockIdx.x"
    sources = faulty_sources(
        tmp_path,
        (tile, all_types, "body(TensorCores<__nv_bfloat16>{})"),
        (tile, "if (dtype == DType::Float32 && !tf32) return body(MultiplyAdd{});", ""),
        (tile, of_step, f"if (kM > 64) {of_step}"),
        ("conv_gemm.cu", grid, grid.removeprefix("  grid_sync();\n")),
    )
    output = sweep(tmp_path, race_detector, "sweep_conv.cpp", csrc=sources)
    assert re.search(r"conv_gemm: .*race on shared memory.*(\n.*){0,2}ldmatrix by thread", output), output
    assert re.search(r"conv_gemm: .*race on global memory.*(\n.*){0,2}moments.cuh", output), output
