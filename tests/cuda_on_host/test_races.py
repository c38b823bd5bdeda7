"""Every kernel of csrc/cuda under the race detector: none races, and one without its barrier does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .structs import PARAMS
from .toolchain import HERE, build, compile_with_races, faulty_sources, line_of


@build
def race_sweeps(folder, race_detector) -> list[Path]:
    return [compile_with_races(folder / name, HERE / f"{name}.cpp", race_detector) for name in ("sweep", "sweep_conv")]


@build
def sources_without_barriers(folder) -> Path:
    """block_reduce (NCHW) and column_reduce (NHWC), each without its barrier."""
    barrier = "__syncthreads();\n"
    return faulty_sources(
        folder,
        ("reduce.cuh", f"  {barrier}  if (warp == 0)", "  if (warp == 0)"),
        ("reduce.cuh", f"  {barrier}  const int lane = thread", "  const int lane = thread"),
    )


@build
def sweep_without_barriers(folder, race_detector, sources_without_barriers) -> Path:
    return compile_with_races(folder / "sweep", HERE / "sweep_some.cpp", race_detector, csrc=sources_without_barriers)


@build
def convolutions_without_barriers(folder, race_detector) -> Path:
    """Of 64 x 64 tiles without the barrier between the copies and their readers, of larger ones without the grid's in
    front of the combined statistics. One type of element is compiled alone, as this takes long."""
    tile, of_step = "conv_gemm_tile.cuh", "__syncthreads();  // this step is here"
    all_types = "with_dtype(dtype, [&](auto element) { return body(TensorCores<decltype(element)>{}); })"
    grid = "  grid_sync();\n  for (int c = blockIdx.x"
    sources = faulty_sources(
        folder,
        (tile, all_types, "body(TensorCores<__nv_bfloat16>{})"),
        (tile, "if (dtype == DType::Float32 && !tf32) return body(MultiplyAdd{});", ""),
        (tile, of_step, f"if (kM > 64) {of_step}"),
        ("conv_gemm.cu", grid, grid.removeprefix("  grid_sync();\n")),
    )
    return compile_with_races(folder / "sweep", HERE / "sweep_conv.cpp", race_detector, csrc=sources)


def output_of(*command: Path | str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def test_no_kernel_races(race_sweeps):
    ran = set()
    for executable in race_sweeps:
        output = output_of(executable)
        assert output.endswith("\n0 failures\n"), output
        ran |= set(re.findall(r"^ran (\w+)$", output, re.MULTILINE))
    sm90a = {f"{name}_sm90a" for name in ("conv_gemm", "conv_gemm_weight_grad")}
    assert ran == PARAMS.keys() | sm90a, "the sweeps leave a kernel out"


def test_a_missing_barrier_is_a_race_between_two_lines(sweep_without_barriers, sources_without_barriers):
    output = output_of(sweep_without_barriers, "bn_stats")
    reduce = sources_without_barriers / "cuda" / "reduce.cuh"
    for written, read in (
        ("if (lane == 0) of_warp[warp] = a;", "of_warp[lane] : A{}"),
        ("held[v * kStride + thread] = a[v];", "sum = merge(sum, held[v * kStride"),
    ):
        first = rf"load by thread \d+ at {reduce}:{line_of(reduce, read)}"
        second = rf"store by thread \d+ at {reduce}:{line_of(reduce, written)}"
        assert re.search(rf"bn_stats: .*race on shared memory.*\n  first:  {first}\n  second: {second}", output), output


def test_a_missing_barrier_of_a_convolution_is_a_race(convolutions_without_barriers):
    output = output_of(convolutions_without_barriers)
    assert re.search(r"conv_gemm: .*race on shared memory.*(\n.*){0,2}ldmatrix by thread", output), output
    assert re.search(r"conv_gemm: .*race on global memory.*(\n.*){0,2}moments.cuh", output), output
