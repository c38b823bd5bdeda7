"""csrc/cuda and the executor's own test kernels by nvcc: they compile without a warning for the architectures that ship
and the newest one, spill nothing and leave room for enough threads. Needs no GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from .toolchain import CSRC, HERE, build

ARCHITECTURES = ["80", "90", "newest"]
ARCHITECTURES_OF_PRODUCTS = ["80", "90"]  # the matrix products on tensor cores, which take long to compile
# Two blocks of 256 threads fit a multiprocessor: enough 16-byte loads in flight to fill the memory bus.
MAX_REGISTERS = 96
# Of the matrix products on tensor cores: 512 threads fit a multiprocessor, so that some multiply while others wait.
MAX_REGISTERS_OF_PRODUCTS, PRODUCT = 128, "BlockGemm"
# Of those bound by memory: all of 4 blocks of 128 threads, 2 of 320, or one of 256 on a multiprocessor.
MAX_REGISTERS_OF_THIN = {"thin_down": 128, "thin_up": 96, "thin_weight_grad": 168}
MAX_REGISTERS_SM90A = 168  # one block of 288 threads a multiprocessor, with room for 384
SM90A_UNITS = sorted((CSRC / "cuda").glob("*_sm90a.cu"))  # compiled for that architecture alone
SOURCES = [source for source in sorted((CSRC / "cuda").glob("*.cu")) if source not in SM90A_UNITS]
PRODUCTS = [source for source in SOURCES if source.name.startswith("conv_")]


class Compiled(NamedTuple):
    object_file: Path
    usage: str  # what ptxas says about every kernel


def nvcc(*arguments: str | Path) -> str:
    path = shutil.which("nvcc")
    if path is None:
        pytest.skip("compiling the CUDA kernels needs nvcc, which is not on PATH")
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def newest() -> str:
    return str(max(map(int, re.findall(r"compute_(\d+)", nvcc("--list-gpu-arch")))))


def compile_unit(folder: Path, sources: list[Path], architectures: Iterable[str]) -> Compiled:
    """``sources`` as one translation unit, so that headers are read once."""
    unit = folder / "unit.cu"
    unit.write_text("".join(f'#include "{source}"\n' for source in sources))
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    flags = ["-std=c++17", "-O3", f"-I{CSRC / 'cuda'}", "-Xptxas=-v,-warn-spills", "-Werror=all-warnings"]
    output = unit.with_suffix(".o")
    return Compiled(output, nvcc("--threads=2", *flags, *targets, "-c", unit, "-o", output))


@build
def passes(folder) -> Compiled:
    sources = [source for source in SOURCES if source not in PRODUCTS]
    architectures = dict.fromkeys(newest() if a == "newest" else a for a in ARCHITECTURES)
    return compile_unit(folder, [*sources, HERE / "pipelines.cuh"], architectures)


@build
def products(folder) -> Compiled:
    return compile_unit(folder, PRODUCTS, ARCHITECTURES_OF_PRODUCTS)


@build
def sm90a(folder) -> Compiled:
    return compile_unit(folder, SM90A_UNITS, ["90a"])


@build
def layout_kernels(folder) -> Path:
    """benchmarks/gpu_layouts.py, up to the GPU."""
    flags = ["-std=c++17", f"-I{CSRC / 'cuda'}", "-gencode=arch=compute_90a,code=sm_90a", "-Werror=all-warnings"]
    nvcc(*flags, "-x", "cu", HERE / "tensor_cores.cpp", "-o", folder / "tensor_cores")
    return folder / "tensor_cores"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills_or_takes_too_many_registers(passes, products, architecture):
    architecture = newest() if architecture == "newest" else architecture
    kernels = re.findall(
        rf"Compiling entry function '(\w+)' for 'sm_{architecture}'.*?\n.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        passes.usage + products.usage,
        re.DOTALL,
    )
    assert len(kernels) > 80, f"only {len(kernels)} kernels found in ptxas' report"
    for name, *numbers in kernels:
        stack, stores, loads, registers = map(int, numbers)
        assert (stack, stores, loads) == (0, 0, 0), f"{name} spills"
        allowed = MAX_REGISTERS_OF_PRODUCTS if PRODUCT in name else MAX_REGISTERS
        allowed = next((most for thin, most in MAX_REGISTERS_OF_THIN.items() if thin in name), allowed)
        assert registers <= allowed, f"{name} uses {registers} registers"


@pytest.fixture(scope="module")
def disassemble():
    """By the toolkit's cuobjdump, or by the wheels nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm."""
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"))
    path = shutil.which("cuobjdump") or next(filter(None, (shutil.which("cuobjdump", path=p) for p in wheels)), None)
    if path is None:
        pytest.skip("no cuobjdump: not on PATH, nor the wheels nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm")
    environment = {**os.environ, "PATH": f"{Path(path).parent}:{os.environ['PATH']}"}  # nvdisasm lies beside it

    def run(*arguments: str | Path) -> str:
        command = [path, "-sass", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    return run


def kernels_in(sass: str) -> dict[str, str]:
    """The instructions of every kernel by its name."""
    return dict(part.split("\n", 1) for part in sass.split("Function : ")[1:])


@pytest.fixture(scope="module", params=ARCHITECTURES_OF_PRODUCTS)
def product_kernels(request, products, disassemble) -> dict[str, str]:
    return kernels_in(disassemble(f"-arch=sm_{request.param}", products.object_file))


def test_products_multiply_as_they_should_and_copy_16_bytes_at_once(product_kernels):
    kernels = {name: sass for name, sass in product_kernels.items() if PRODUCT in name}
    assert len(kernels) == 4 * (3 * 2 + 2), "maths x (tiles x directions + tiles of the weight gradient)"
    for name, kernel in kernels.items():
        if "MultiplyAdd" in name:
            assert_little_but_multiply_adds(name, kernel)
        else:
            instruction = "HMMA.1688.F32.TF32" if "TensorCoresIf" in name else "HMMA.16816.F32"
            assert kernel.count(instruction) >= 8, f"{name} is not on tensor cores"
        assert "LDGSTS.E.BYPASS.128" in kernel, f"{name} has no asynchronous copy of 16 bytes"
        assert not re.search(r"\b(LDL|STL)\b", kernel), f"{name} keeps registers in memory"


def assert_little_but_multiply_adds(name: str, code: str) -> None:
    """A thread of 8 x 8 sums loads 16 chunks for 256 of them, of 4 x 8 sums 12 for 128; that and addresses."""
    instructions = [
        (int(address, 16), operation, target and int(target, 16))
        for address, operation, target in re.findall(
            r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?(\w+)(?:[^;\n]*? 0x([0-9a-f]+) ;)?", code
        )
    ]
    loops = [
        [operation for place, operation, _ in instructions if target <= place <= address]
        for address, operation, target in instructions
        if operation == "BRA" and target and target < address
    ]
    loop = min((loop for loop in loops if loop.count("FFMA") >= 128), key=len)
    assert loop.count("FFMA") >= 10 * loop.count("LDS"), name
    assert loop.count("FFMA") >= 0.8 * len(loop), name


def test_thin_products_run_on_tensor_cores_and_move_16_bytes_at_once(product_kernels):
    for thin, moves in (
        ("thin_down", "STG.E.128"),
        ("thin_up", "LDG.E.128"),
        ("thin_weight_grad", "LDGSTS.E.BYPASS.128"),
    ):
        kernels = {name: sass for name, sass in product_kernels.items() if thin in name}
        assert len(kernels) == (6 if thin == "thin_up" else 3)
        for name, kernel in kernels.items():
            instruction = "HMMA.1688.F32.TF32" if "kernelIf" in name else "HMMA.16816.F32"
            assert kernel.count(instruction) >= 8, f"{name} is not on tensor cores"
            assert moves in kernel, f"{name} does not move 16 bytes at once"
            assert not re.search(r"\b(LDL|STL)\b", kernel), f"{name} keeps registers in memory"


def test_sm90a_kernels_do_not_spill_and_their_wgmma_overlap(sm90a):
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", sm90a.usage)
    assert len(spills) > 2 * (3 * 2 + 2), "types x (tiles x directions + tiles of the weight gradient)"
    assert set(spills) == {("0", "0", "0")}
    assert max(map(int, re.findall(r"Used (\d+) registers", sm90a.usage))) <= MAX_REGISTERS_SM90A
    assert "(C75" not in sm90a.usage, "ptxas waits between wgmma (C7510 and its like): " + sm90a.usage


def test_sm90a_kernels_use_wgmma_and_tensor_copies(sm90a, disassemble):
    sass = disassemble(sm90a.object_file)
    kernels = [part for part in sass.split("Function : ")[1:] if "sm90a_kernel" in part.partition("\n")[0]]
    assert len(kernels) == 2 * (3 * 2 + 2), "types x (tiles x directions + tiles of the weight gradient)"
    for kernel in kernels:
        name = kernel.partition("\n")[0]
        instruction = "16.F32.BF16" if "bfloat16" in name else "16.F32 "
        assert re.search(rf"HGMMA\.64x(64|128)x{instruction}", kernel), f"{name} has no wgmma"
        assert "UTMALDG.4D" in kernel, f"{name} has no tensor copy"
    assert not re.search(r"\b(LDL|STL)\b", sass), "a kernel keeps registers in memory"


def test_layout_kernels_compile(layout_kernels):
    assert layout_kernels.stat().st_size > 0
