"""csrc/cuda and the executor's own test kernels by nvcc: they compile without a warning for the architectures that ship
and the newest one, spill nothing and leave room for enough threads. Needs no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from .toolchain import CSRC, HERE

ARCHITECTURES = ["80", "90", "90a", "newest"]
# Two blocks of 256 threads fit a multiprocessor: enough 16-byte loads in flight to fill the memory bus.
MAX_REGISTERS = 96


@pytest.fixture(scope="module")
def nvcc() -> str:
    path = shutil.which("nvcc")
    if path is None:
        pytest.skip("compiling the CUDA kernels needs nvcc, which is not on PATH")
    return path


@pytest.fixture(scope="module")
def newest(nvcc) -> str:
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    return str(max(map(int, re.findall(r"compute_(\d+)", listed))))


@pytest.fixture(scope="module")
def resource_usage(nvcc, newest, tmp_path_factory) -> str:
    """What ptxas says about every kernel of every architecture. One translation unit: headers are read once."""
    folder = tmp_path_factory.mktemp("nvcc")
    unit = folder / "all.cu"
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), HERE / "pipelines.cuh"]
    unit.write_text("".join(f'#include "{source}"\n' for source in sources))
    architectures = dict.fromkeys(newest if a == "newest" else a for a in ARCHITECTURES)
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    flags = ["-std=c++17", "-O3", f"-I{CSRC / 'cuda'}", "-Xptxas=-v,-warn-spills", "-Werror=all-warnings"]
    command = [nvcc, "--threads=2", *flags, *targets, "-c", unit, "-o", folder / "all.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills_or_takes_too_many_registers(resource_usage, newest, architecture):
    architecture = newest if architecture == "newest" else architecture
    kernels = re.findall(
        rf"Compiling entry function '(\w+)' for 'sm_{architecture}'.*?\n.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        resource_usage,
        re.DOTALL,
    )
    assert len(kernels) > 80, f"only {len(kernels)} kernels found in ptxas' report"
    for name, *numbers in kernels:
        stack, stores, loads, registers = map(int, numbers)
        assert (stack, stores, loads) == (0, 0, 0), f"{name} spills"
        assert registers <= MAX_REGISTERS, f"{name} uses {registers} registers"
