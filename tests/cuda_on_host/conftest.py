"""csrc/cuda as a shared library for the CPU, built once a session."""

from __future__ import annotations

import pytest

from cuda_on_host.structs import Kernels
from cuda_on_host.toolchain import HERE, compile_for_host


@pytest.fixture(scope="session")
def kernels(tmp_path_factory) -> Kernels:
    output = tmp_path_factory.mktemp("cuda_on_host") / "kernels.so"
    return Kernels(compile_for_host(output, HERE / "kernels.cpp", "-O1", "-shared", "-fPIC"))
