"""csrc/cuda, and the CUDA half of csrc/ops over it, as shared libraries for the CPU; and the session's builds."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import fastgan.ops  # noqa: F401
import fastgan.optim  # noqa: F401  (both define schemas)

from .structs import Kernels
from .toolchain import BUILDS, CSRC, HERE, build, compile_for_host, compile_kernels, compile_race_detector, needs

# These tests compile and call the kernels themselves: a run of the suite by the references has nothing new for them.
collect_ignore_glob = ["test_*.py"] if os.environ.get("FASTGAN_IMPL") == "reference" else []


@pytest.fixture(scope="session")
def builds(request, tmp_path_factory) -> Iterator[dict[str, Future]]:
    """Every build that this session's tests take, and what it needs, under way from the first test that takes one."""
    taken = {name for item in request.session.items for name in item.fixturenames}
    for name in reversed(BUILDS):
        if name in taken:
            taken.update(needs(BUILDS[name]))
    pool, made = ThreadPoolExecutor(os.cpu_count()), {}

    def make(name: str, folder: Path) -> object:
        return BUILDS[name](folder, *(made[other].result() for other in needs(BUILDS[name])))

    for name in filter(taken.__contains__, BUILDS):
        made[name] = pool.submit(make, name, tmp_path_factory.mktemp(name))
    yield made
    pool.shutdown(cancel_futures=True)


@build
def race_detector(folder) -> Path:
    return compile_race_detector(folder / "races.o")


@build
def kernels_library(folder) -> Path:
    return compile_kernels(folder)


@pytest.fixture(scope="session")
def host_kernels(kernels_library) -> Kernels:
    return Kernels(kernels_library)


@pytest.fixture
def any_order(host_kernels) -> None:
    """For tests that need no particular order of threads."""
    host_kernels.set_order("random")


@build
def sm90a_kernels(folder) -> Path:
    return compile_for_host(folder / "conv_sm90a.o", HERE / "conv_sm90a.cpp", "-O1", "-c", "-fPIC")


@build
def ops_library(folder, kernels_library, sm90a_kernels) -> Path:
    torch_root = Path(torch.__file__).parent
    flags = ["-O0", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{CSRC}", "-isystem", str(torch_root / "include")]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA", "-DFASTGAN_WITH_SM90A"]
    flags += ["-Wno-psabi"]
    link = [str(kernels_library), str(sm90a_kernels), "-Wl,--no-as-needed", f"-L{torch_root / 'lib'}", "-ltorch"]
    return compile_for_host(folder / "ops.so", HERE / "ops.cpp", *flags, link=link)


@pytest.fixture(scope="session")
def ops(kernels_library, ops_library):
    """torch.ops.cuda_on_host: fastgan's CUDA implementations for CPU tensors, under fastgan's own schemas."""
    library = torch.library.Library("cuda_on_host", "FRAGMENT")
    for name in filter(lambda name: name.startswith("fastgan::"), torch._C._dispatch_get_all_op_names()):
        (schema,) = torch._C._jit_get_schemas_for_operator(name)
        library.define(str(schema).removeprefix("fastgan::"))
    torch.ops.load_library(ops_library)
    yield torch.ops.cuda_on_host
    library._destroy()


class Device:
    """The device as the ops of ``ops`` see it, and what they chose for it."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.chosen_conv.restype = ctypes.c_char_p

    def set(self, major: int = 9, minor: int = 0, capturing: bool = False) -> None:
        self._library.set_device(major, minor, capturing)

    def set_times(self, *milliseconds: float) -> None:
        """What timings find from now on, over and over."""
        self._library.set_times((ctypes.c_float * len(milliseconds))(*milliseconds), len(milliseconds))

    def plan(self, word: str) -> None:
        self._library.set_conv_choice(word.encode())

    def chosen(self, key: str) -> str:
        return self._library.chosen_conv(key.encode()).decode()


@pytest.fixture
def device(ops, ops_library):
    device = Device(ops_library)
    yield device
    device.set()
    device.set_times(1.0)
    device.plan("auto")
