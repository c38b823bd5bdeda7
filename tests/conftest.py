"""What all tests share: fixed seeds, and the implementations under test.

FASTGAN_REQUIRE_KERNELS=1: a missing extension fails the kernel tests (continuous integration), it does not skip them.
FASTGAN_IMPL=reference: only the references are run.

Where there is a GPU, every test that takes `implementation` runs there too (on_gpu.py); what asks for a kernel of
float64, which CUDA has none of, is skipped.
"""

from __future__ import annotations

import os
import random

import numpy
import pytest
import torch
from on_gpu import ON_GPU, on_gpu

from fastgan.ops import _library, use

IMPLEMENTATIONS = ["reference"] if os.environ.get("FASTGAN_IMPL") == "reference" else ["reference", "kernel", *ON_GPU]


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread(request):
    """In folders of tiny tensors: threads that wait for each other on a busy machine are most of such a test's time."""
    threads = torch.get_num_threads()
    if request.path.parent.name in ("architectures", "bench", "data", "metrics", "nn"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def need_kernels() -> None:
    """Skip, or fail where kernels are required, unless the extension is loaded."""
    if not _library.LOADED:
        if os.environ.get("FASTGAN_REQUIRE_KERNELS") == "1":
            pytest.fail(f"FASTGAN_REQUIRE_KERNELS=1, but the extension is {_library.REASON}")
        pytest.skip(_library.REASON)


@pytest.fixture
def kernels() -> None:
    """For tests of the compiled ops themselves."""
    if IMPLEMENTATIONS == ["reference"]:
        pytest.skip("FASTGAN_IMPL=reference")
    need_kernels()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    try:
        return (yield)
    except NotImplementedError as error:
        if "float64 has no CUDA kernel" not in str(error):
            raise
        pytest.skip("float64 has no CUDA kernel")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request) -> str:
    """Runs the test once by the reference, once by the kernels, and by the CUDA kernels where there is a GPU."""
    if request.param in ON_GPU:
        with on_gpu(), use("kernel"):
            yield "kernel"
        return
    if request.param == "kernel":
        need_kernels()
    with use(request.param):
        yield request.param
