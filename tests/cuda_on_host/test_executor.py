"""The executor alone: indices, shuffles, atomics, shared memory, and the faults it must report instead of hanging."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch

from .toolchain import HERE, build, compile_for_host


@build
def probe(folder) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_for_host(folder / "probe.so", HERE / "probe.cpp", "-shared", "-fPIC")))


@pytest.fixture(params=[0, 1, 2], ids=["forward", "reverse", "random"])
def run(request, probe):
    probe.set_order(request.param)

    def call(name: str, *tensors: torch.Tensor) -> str | None:
        function = getattr(probe, f"run_{name}")
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p] * len(tensors)
        error = function(*(t.data_ptr() for t in tensors))
        return error and error.decode()

    return call


def ints(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def test_every_thread_of_every_block_runs_once(run):
    out = ints(12 * 30)
    assert run("indices", out) is None
    assert torch.equal(out, torch.arange(360, dtype=torch.int32))


def test_shuffles(run):
    out, lanes = ints(6, 32), range(32)
    assert run("shuffles", out) is None
    assert out[0].tolist() == [lane + 3 if lane < 29 else lane for lane in lanes]
    assert out[1].tolist() == [lane - 3 if lane >= 3 else lane for lane in lanes]
    assert out[2].tolist() == [lane ^ 5 for lane in lanes]
    assert out[3].tolist() == [lane // 8 * 8 + lane // 8 for lane in lanes]
    assert out[4].tolist() == [sum(1 << lane for lane in lanes if lane % 3 == 0)] * 32
    assert out[5].tolist() == [lane + 8 if lane < 8 else lane for lane in range(16)] + [0] * 16


def test_atomics_and_dynamic_shared_memory(run):
    counts, largest = ints(4), ints(1)
    assert run("histogram", counts, largest) is None
    assert counts.tolist() == [54, 54, 51, 51]
    assert largest.item() == 209


def test_shared_memory_is_nan_at_the_start_of_every_block(run):
    out = torch.zeros(64)
    assert run("reads_before_writing", out) is None
    assert out.isnan().all()


def test_threads_that_left_are_not_waited_for(run):
    out = ints(64)
    assert run("leaves_early", out) is None
    assert out.tolist() == [1] * 40 + [0] * 24


def test_a_collective_that_not_all_lanes_reach_is_reported(run):
    error = run("barrier_for_some")
    lines = (HERE / "probe.cpp").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(lines) if "if (threadIdx.x < 8)" in text)
    assert "deadlock" in error and "__shfl_down_sync" in error and f"probe.cpp:{line}" in error


@pytest.mark.parametrize("name", ["ldmatrix", "ldmatrix_trans"])
def test_ldmatrix(run, name):
    """The figure of "ldmatrix": lane l holds of each matrix row l / 4, elements 2 (l % 4) and the next."""
    matrices, out = torch.arange(256, dtype=torch.int16).view(4, 8, 8), torch.zeros(32, 4, 2, dtype=torch.int16)
    assert run(name, matrices, out) is None
    expected = matrices.transpose(1, 2) if name == "ldmatrix_trans" else matrices
    for lane, i in itertools.product(range(32), range(4)):
        row, column = lane // 4, lane % 4 * 2
        assert out[lane, i].tolist() == expected[i, row, column : column + 2].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bfloat16", "float16", "tf32"])
def test_mma(run, dtype):
    """The figures of "Matrix Fragments for mma.m16n8k16" and "... mma.m16n8k8": groups of 4 lanes hold rows of A and
    columns of B, a register is one element of tf32 or two neighbours in K of 16 bits."""
    pair = 1 if dtype == torch.float32 else 2
    depth = 8 * pair
    generator = torch.Generator().manual_seed(1)
    a, b, d = (
        torch.randint(-8, 9, shape, generator=generator).to(dtype) for shape in ((16, depth), (depth, 8), (16, 8))
    )
    of_a, of_b = torch.zeros(32, 4, pair, dtype=dtype), torch.zeros(32, 2, pair, dtype=dtype)
    of_d, expected = torch.zeros(32, 4), torch.zeros(32, 4)
    for lane in range(32):
        group, k = lane // 4, lane % 4 * pair
        rows, halves = (group, group + 8), (k, k + 4 * pair)
        for i in range(4):
            of_a[lane, i] = a[rows[i % 2], halves[i // 2] : halves[i // 2] + pair]
            of_d[lane, i] = d[rows[i // 2], lane % 4 * 2 + i % 2]
            expected[lane, i] = (d.double() + a.double() @ b.double())[rows[i // 2], lane % 4 * 2 + i % 2]
        for i in range(2):
            of_b[lane, i] = b[halves[i] : halves[i] + pair, group]
    assert run(f"mma_{'tf32' if pair == 1 else str(dtype).removeprefix('torch.')}", of_a, of_b, of_d) is None
    assert torch.equal(of_d, expected)


def test_misuse_is_reported(run):
    assert "not cooperative" in run("grid_sync_alone")
    assert run("too_many_together") == "refused"
    assert "without being in its mask" in run("not_in_the_mask")
    assert "48 KiB" in run("too_much_shared")
    assert "invalid launch" in run("too_many_threads")
    assert "not aligned" in run("copy_off_its_alignment", torch.zeros(8))
    assert "before the mbarrier's initialisation" in run("arrival_before_initialisation")
    assert "was not waited for" in run("bulk_copy_not_awaited", torch.zeros(8))
    assert run("indices", ints(360)) is None, "a failed launch must not spoil the next one"
