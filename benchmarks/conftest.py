"""pytest-benchmark over fastgan.bench: options, and the parametrisation that the bench_<op>.py files share.

A file names its op in OP; its test takes ``case``, ``mode`` and ``provider`` and calls ``measure``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fastgan import bench
from fastgan.bench import equality


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastgan")
    group.addoption("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    group.addoption(
        "--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="networks run under autocast"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "provider" not in metafunc.fixturenames:
        return
    dtype = bench.DTYPES[metafunc.config.getoption("dtype")]
    device = torch.device(metafunc.config.getoption("device"))
    cases = [c for c in bench.all_cases(device.type) if c.op == metafunc.module.OP and dtype in c.dtypes]
    rows = [(c, mode, provider) for c in cases for mode in c.modes for provider in c.providers(mode, compiled=False)]
    metafunc.parametrize(
        ("case", "mode", "provider"), rows, ids=[f"{c.name}, {mode}, {provider}" for c, mode, provider in rows]
    )


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark) -> Callable[[bench.Case, str, str], None]:
    """measure(case, mode, provider): check the provider against float64, then time it in the group of its row."""
    dtype = bench.DTYPES[request.config.getoption("dtype")]
    device = torch.device(request.config.getoption("device"))

    def run(case: bench.Case, mode: str, provider: str) -> None:
        workload = case.setup(provider, dtype, device)
        equality.check_equal(case, provider, workload.results(), equality.oracle(case, dtype, device), dtype)
        function = workload.modes[mode]

        def call() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        benchmark.group = f"{case}, {mode}"
        benchmark.extra_info["implementation"] = workload.implementation
        benchmark.pedantic(call, rounds=10, warmup_rounds=2)

    return run
