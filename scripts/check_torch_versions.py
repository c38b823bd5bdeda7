"""Does one build of fastgan._C load and run under other versions of torch? Prints a table for CONTRIBUTING.md.

    python scripts/check_torch_versions.py 2.10.0 2.11.0 2.13.0

Each version gets a fresh environment, deleted afterwards (2 GB under --folder, default: a temporary one). torch comes
without its dependencies; of a CUDA build's many gigabytes of libraries only the CUDA runtime is installed, and empty
libraries with the right names stand in for the others: enough to import torch and to run CPU ops. A copy of this tree's
fastgan package, with the extension that `setup.py build_ext --inplace` made, is imported there, and ops of it are
compared with their references. Needs Linux, a C compiler and readelf.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PURE_DEPENDENCIES = ["numpy", "typing-extensions", "sympy", "filelock", "jinja2", "networkx", "fsspec", "setuptools"]
CHECK = """
import os, sys
sys.setdlopenflags(os.RTLD_LAZY)  # functions of the stand-in libraries are looked up when called: never
import torch
sys.path.insert(0, sys.argv[1])
try:
    import fastgan.ops
    from fastgan.ops import _library
    assert _library.LOADED, _library.REASON
except Exception as error:
    raise SystemExit(f"{torch.__version__} | {type(error).__name__}: {error} | -")
x, w, g = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(8, 4, 4, 4), torch.ones(4)

def outcome(implementation):
    with fastgan.ops.use(implementation):
        y = fastgan.ops.conv_transpose2d_bn_act(x, w, None, g, g, stride=2, padding=1, activation="tanh").y
        return torch.cat([y.flatten(), torch.autograd.grad(y.sum(), x)[0].flatten()])

error = (outcome("kernel") - outcome("reference")).abs().max().item()
p = [torch.randn(7, 5)]
fastgan.ops.clip_weights_(p, 0.1)
print(f"{torch.__version__} | yes | forward and backward within {error:.0e}, clip {p[0].abs().max().item():.1f}")
raise SystemExit(error > 1e-4)
"""


def check(version: str, folder: Path) -> tuple[str, bool]:
    """One row of the table, and whether everything in it is well."""
    environment = folder / f"torch-{version}"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    try:
        pip(python, "--no-deps", f"torch=={version}")
        pip(python, *PURE_DEPENDENCIES)
        stand_in_for_cuda(python, next(environment.glob("lib/python*/site-packages")))
        done = run(python, "-c", CHECK, package_copy(folder))
        row = last_line(done.stdout) or last_line(done.stderr) or f"{version} | exit status {done.returncode} | -"
        return f"| {row} | {'ok' if done.returncode == 0 else 'FAILED'} |", done.returncode == 0
    except RuntimeError as error:
        return f"| {version} | not tried: {error} | - | - |", False
    finally:
        shutil.rmtree(environment, ignore_errors=True)


def stand_in_for_cuda(python: Path, packages: Path) -> None:
    """The CUDA runtime itself, since torch registers its kernels with it on loading, and stubs of all else."""
    metadata = next(packages.glob("torch-*.dist-info/METADATA")).read_text()
    runtime = re.search(r"^Requires-Dist: (nvidia-cuda-runtime[\w.-]*==[\w.]+)", metadata, re.MULTILINE)
    toolkit = re.search(r"^Requires-Dist: cuda-toolkit(?:\[.*?\])?\s*==(\d+\.\d+)", metadata, re.MULTILINE)
    if not runtime and not toolkit:
        return  # a CPU build
    pip(python, runtime[1] if runtime else f"nvidia-cuda-runtime=={toolkit[1]}.*")
    lib = packages / "torch" / "lib"
    for library in packages.glob("nvidia/**/libcudart.so*"):
        shutil.copy(library, lib)
    dynamic = run("readelf", "-d", *lib.glob("*.so")).stdout
    for name in set(re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv|nccl)[^\]]+)\]", dynamic)):
        if not (lib / name).exists():
            run("cc", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{name}", "-o", lib / name)


def pip(python: Path, *requirements: str) -> None:
    done = run(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *requirements)
    if done.returncode:
        raise RuntimeError(last_line(done.stderr))


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def package_copy(folder: Path) -> Path:
    """The package alone, so that nothing else of the checkout is importable."""
    target = folder / "package"
    if not target.exists():
        shutil.copytree(ROOT / "fastgan", target / "fastgan", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=["2.10.0", "2.11.0", "2.13.0"], help="torch versions to try")
    parser.add_argument("--folder", type=Path, help="where the environments are made")
    options = parser.parse_args()
    print("| torch | import | CPU ops against their references | result |\n|---|---|---|---|", flush=True)
    well = True
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for version in options.versions:
            row, ok = check(version, Path(folder))
            print(row, flush=True)
            well &= ok
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
