"""Where the CUDA toolkit is, and how the tests of this folder compile for the CPU."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
HOST_FLAGS = ["-std=c++20", "-Wall", "-Wno-unknown-pragmas", "-Werror", "-DFASTGAN_MAX_VECTORS_PER_LAUNCH=512u"]
HOST_FLAGS += ["-fno-gnu-unique"]  # several of these libraries in one process keep their globals apart
HOST_FLAGS += ["-Og"]  # compiling takes longer than running: -O1 costs half as much again
RACES = ["-g1", "-fPIC", "-DCUDA_ON_HOST_RACES"]

BUILDS: dict[str, Callable[..., object]] = {}


def build(make: Callable[..., object]):
    """A session fixture of the name of ``make(folder, ...)``, of what that compiles in a folder of its own.

    All builds that a session's tests take run side by side (conftest.py's `builds`), in the order in which they are
    defined; a test waits for its own alone. Further parameters name builds defined before.
    """
    BUILDS[make.__name__] = make

    @pytest.fixture(scope="session", name=make.__name__)
    def value(builds):
        return builds[make.__name__].result()

    return value


def needs(make: Callable[..., object]) -> list[str]:
    """The builds that this one takes."""
    return list(inspect.signature(make).parameters)[1:]


def toolkit_include() -> Path | None:
    """The folder with cuda_runtime_api.h: CUDA_HOME's, CUDA_PATH's, the one of the nvcc on PATH, or the usual place."""
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _root_of_nvcc(), "/usr/local/cuda"]
    for root in filter(None, roots):
        include = Path(root) / "include"
        if (include / "cuda_runtime_api.h").is_file():
            return include
    return None


def _root_of_nvcc() -> str | None:
    """What nvcc itself calls its top folder; the nvcc on PATH may be a wrapper script somewhere else."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    dry_run = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    found = re.search(r"^#\$ TOP=(.*)$", dry_run.stderr, re.MULTILINE)
    return found and found[1].strip()


def compile_for_host(output: Path, source: Path, *flags: str, csrc: Path = CSRC, link: Sequence[str] = ()) -> Path:
    """g++ ``source`` over the executor and the kernel sources in ``csrc``/cuda; skips where the toolkit is missing."""
    compiler, include = shutil.which("g++"), toolkit_include()
    if compiler is None:
        pytest.skip("running CUDA kernels on the CPU needs g++, which is not on PATH")
    if include is None:
        pytest.skip("running CUDA kernels on the CPU needs the CUDA toolkit's headers (cuda_runtime_api.h); none found")
    command = [compiler, *HOST_FLAGS, *flags, f"-I{HERE}", f"-I{csrc / 'cuda'}", "-isystem", str(include), str(source)]
    done = subprocess.run([*command, "-o", str(output), *link], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def compile_kernels(folder: Path) -> Path:
    """The library that structs.Kernels loads."""
    flags = ["-O1", "-c", "-fPIC"]  # the products run for longer than they compile
    convolutions = compile_for_host(folder / "conv_kernels.o", HERE / "conv_kernels.cpp", *flags)
    output = folder / "kernels.so"
    return compile_for_host(output, HERE / "kernels.cpp", "-shared", "-fPIC", link=[str(convolutions)])


def compile_race_detector(output: Path) -> Path:
    """The object file that compile_with_races links."""
    return compile_for_host(output, HERE / "executor" / "races.cpp", "-c", *RACES)


def compile_with_races(output: Path, source: Path, detector: Path, *flags: str, csrc: Path = CSRC) -> Path:
    """``source`` with its loads and stores seen by the race detector, which takes the place of g++'s own library."""
    instrumented = output.with_suffix(".o")
    switches = ["-c", *RACES, "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
    compile_for_host(instrumented, source, *switches, csrc=csrc)
    return compile_for_host(output, detector, *flags, link=[str(instrumented)])


def compile_both_ways(folder: Path, source: Path, detector: Path) -> dict[str, Path]:
    """Executables of ``source``, "plain" and with the detector's "races"."""
    return {
        "plain": compile_for_host(folder / "plain", source),
        "races": compile_with_races(folder / "races", source, detector),
    }


def faulty_sources(folder: Path, *faults: tuple[str, str, str]) -> Path:
    """A copy of csrc with each (file of cuda/, text, replacement) applied; the text must stand there exactly once."""
    copy = Path(shutil.copytree(CSRC, folder / "csrc"))
    for name, text, replacement in faults:
        file = copy / "cuda" / name
        source = file.read_text()
        assert source.count(text) == 1, f"{name} no longer holds {text!r} once: adapt this fault"
        file.write_text(source.replace(text, replacement))
    return copy


def line_of(file: Path, text: str) -> int:
    """The number of the line on which ``text``, which stands there once, begins."""
    source = file.read_text()
    assert source.count(text) == 1, f"{file.name} no longer holds {text!r} once"
    return 1 + source[: source.index(text)].count("\n")
