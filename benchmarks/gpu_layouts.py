"""Proves on a GPU what csrc/cuda/ptx_sm90a.cuh says of layouts: to be run before anything that uses wgmma.

    python benchmarks/gpu_layouts.py             needs nvcc and a GPU of compute capability 9.0; seconds

Small kernels (tests/cuda_on_host/tensor_cores.cuh) multiply index-coded operands through every kind of descriptor,
swizzle and tensor map, and copy boxes of an image whose elements are their own indices. A case that is not "right" says
which element arrived in place of which. Exit status 1 where one is wrong.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "tests" / "cuda_on_host"
ALL_PATTERNS = "5"


def build(nvcc: str, folder: Path) -> Path:
    executable = folder / "tensor_cores"
    flags = ["-std=c++17", "-O3", f"-I{ROOT / 'csrc' / 'cuda'}", "-gencode=arch=compute_90a,code=sm_90a"]
    subprocess.run([nvcc, *flags, "-x", "cu", KERNELS / "tensor_cores.cpp", "-o", executable], check=True)
    return executable


def main() -> int:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        sys.exit("gpu_layouts.py compiles its kernels by nvcc, which is not on PATH")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        executable = build(nvcc, Path(folder))
        for kernel in ("gathered", "stored", "product"):
            command = [executable, kernel, ALL_PATTERNS, "0"]  # fault 0: none
            output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
            print(output, end="", flush=True)
            wrong += sum(not line.endswith(": right") for line in output.splitlines())
    print(f"{wrong} layouts are not what ptx_sm90a.cuh says" if wrong else "all layouts are as ptx_sm90a.cuh says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
