"""csrc/cuda by nvcc for every architecture that ships: it compiles without a warning, spills nothing and leaves room
for enough threads. Needs no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from .toolchain import CSRC

ARCHITECTURES = ["80", "90"]
# Two blocks of 256 threads fit a multiprocessor: enough 16-byte loads in flight to fill the memory bus.
MAX_REGISTERS = 96


@pytest.fixture(scope="module")
def resource_usage(tmp_path_factory) -> str:
    """What ptxas says about every kernel of every architecture. One translation unit: headers are read once."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("compiling the CUDA kernels needs nvcc, which is not on PATH")
    folder = tmp_path_factory.mktemp("nvcc")
    unit = folder / "all.cu"
    unit.write_text("".join(f'#include "{source.name}"\n' for source in sorted((CSRC / "cuda").glob("*.cu"))))
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    flags = ["-std=c++17", "-O3", f"-I{CSRC / 'cuda'}", "-Xptxas=-v,-warn-spills", "-Werror=all-warnings"]
    command = [nvcc, *flags, *targets, "-c", unit, "-o", folder / "all.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills_or_takes_too_many_registers(resource_usage, architecture):
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
