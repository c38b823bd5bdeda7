"""Peak memory of a provider's work: parameters, inputs, activations, optimiser state and every workspace.

CPU: a fresh process, forked from one that has imported torch and fastgan and done nothing else, sets the work up, runs
it three times and reads how far its anonymous memory grew at most. That counts what no allocator hook sees (oneDNN's
scratchpads, workspaces of kernels) and neither the interpreter nor libraries. Linux only; None elsewhere.
CUDA: max_memory_allocated of torch's allocator, above what was allocated before the set-up.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache

import torch

from fastgan.bench.case import Case
from fastgan.ops import _dispatch

__all__ = ["peak_memory"]

REPEATS = 3
TIMEOUT_S = 300


def peak_memory(case: Case, provider: str, mode: str, dtype: torch.dtype, device: torch.device) -> int | None:
    """Bytes, or None where this system does not say."""
    if device.type == "cuda":
        return _peak_cuda(case, provider, mode, dtype, device)
    if not os.path.exists("/proc/self/status"):
        return None
    with ProcessPoolExecutor(1, mp_context=_fork_server()) as pool:
        arguments = (case, provider, mode, dtype, torch.get_num_threads(), _dispatch.current())
        return pool.submit(_peak_cpu, *arguments).result(TIMEOUT_S)


@lru_cache(maxsize=1)
def _fork_server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _peak_cpu(case: Case, provider: str, mode: str, dtype: torch.dtype, threads: int, implementation: str) -> int:
    torch.set_num_threads(threads)
    with _dispatch.use(implementation):
        before = _status("RssAnon")
        function = case.setup(provider, dtype, torch.device("cpu")).modes[mode]
        gc.collect()
        _reset_peak()
        for _ in range(REPEATS):
            function()
        # the peak counts file pages (code) too, which only grow: take them as they are at the end
        return _status("VmHWM") - _status("RssFile") - _status("RssShmem") - before


def _reset_peak() -> None:
    """Forget the set-up's peak, its temporary copies of weights and inputs."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _peak_cuda(case: Case, provider: str, mode: str, dtype: torch.dtype, device: torch.device) -> int:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    function = case.setup(provider, dtype, device).modes[mode]
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(REPEATS):
        function()
    return torch.cuda.max_memory_allocated(device) - before
