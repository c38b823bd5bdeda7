"""A provider's work made ready for the timer: in several sets of tensors, captured in a CUDA graph, or a plain copy.

sets      A GPU keeps what fits into its cache, and a kernel timed again and again on the same tensors would be measured
          out of it. A call of a rotated workload runs every set once; their tensors together are four times the cache.
graph     Everything in a call, captured by torch.cuda.graph as a user of plain PyTorch captures a training step:
          warm-up in the stream of the capture, static inputs, gradients set to None so that the graph owns them. What
          the warm-up changed is put back before the capture.
          A CPU has no graphs: there the warm-up and the putting back are done, and the call stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from fastgan.bench import ceilings
from fastgan.bench.case import COPY, GRAPH, Case, Workload, base_of, is_graphed

__all__ = ["capture", "providers", "set_up", "sets"]

WARMUP = 3
CACHES = 4  # the sets of one provider together fill the cache this often


def providers(case: Case, mode: str, compiled: bool, device: torch.device) -> tuple[str, ...]:
    """The case's providers; on a GPU also each of them in a graph, and a copy where the work is nothing but memory."""
    found = case.providers(mode, compiled)
    if device.type != "cuda":
        return found
    if "compile channels_last" in found:  # on GPUs torch.compile gives convolutions that layout by itself
        found = tuple(p for p in found if p != "compile")
    work = case.work(mode, torch.float32)
    if work is not None and not work.flops:
        found = (*found, COPY)
    # "backward" walks a graph of autograd's that was made outside: it belongs to another stream than the capture
    return found if mode == "backward" else (*found, *(p + GRAPH for p in found))


def sets(case: Case, mode: str, dtype: torch.dtype, device: torch.device) -> int:
    """In how many sets of tensors the case is measured."""
    if device.type != "cuda" or not case.rotates:
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, math.ceil(CACHES * cache / case.work(mode, dtype).bytes))


def set_up(case: Case, provider: str, dtype: torch.dtype, device: torch.device, copies: int = 1) -> Workload:
    """The work of ``provider``; a call does all of ``copies`` sets."""
    plain = _copying(case, dtype, device) if base_of(provider) == COPY else case.setup
    made = [plain(provider, dtype, device) for _ in range(copies)]
    workload = made[0] if copies == 1 else _rotated(made)
    return _graphed(workload, device) if is_graphed(provider) else workload


def _copying(case: Case, dtype: torch.dtype, device: torch.device) -> Callable[..., Workload]:
    modes = {mode: case.work(mode, dtype).bytes for mode in case.modes}
    return lambda *_: Workload({mode: ceilings.copy(moved, device) for mode, moved in modes.items()}, dict)


def _rotated(made: list[Workload]) -> Workload:
    def all_of(functions: list[Callable[[], object]]) -> Callable[[], object]:
        return lambda: [function() for function in functions]

    def state() -> list[torch.Tensor]:
        return [t for workload in made for t in workload.state()]

    modes = {mode: all_of([w.modes[mode] for w in made]) for mode in made[0].modes}
    return Workload(modes, made[-1].results, made[0].implementation, state)


def _graphed(workload: Workload, device: torch.device) -> Workload:
    captured: dict[str, Callable[[], object]] = {}

    def by_graph(mode: str) -> Callable[[], object]:
        def run() -> object:
            if mode not in captured:  # at the first call: nobody asks for all of the modes
                captured[mode] = capture(workload.modes[mode], workload.state, device)
            return captured[mode]()

        return run

    def results() -> dict[str, torch.Tensor]:
        replay = capture(workload.results, workload.state, device)
        found = replay()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the graph ends with this function
        return found

    modes = {mode: by_graph(mode) for mode in workload.modes}
    return Workload(modes, results, workload.implementation, workload.state)


def capture(
    function: Callable[[], object], state: Callable[[], list[torch.Tensor]], device: torch.device
) -> Callable[[], object]:
    """``function`` as one CUDA graph: each call replays it and returns the tensors of the capture, written anew.

    state: tensors that ``function`` changes in place. They are after the capture what they were before it; those that
    the warm-up made (an optimiser's moments) are set to zero.
    """
    before = [(t, t.detach().clone()) for t in state()]
    if device.type != "cuda":
        for _ in range(WARMUP):
            function()
        _put_back(before, state())
        return function
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            function()
        _put_back(before, state())
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = function()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


@torch.no_grad()
def _put_back(before: list[tuple[torch.Tensor, torch.Tensor]], now: Iterable[torch.Tensor]) -> None:
    known = {t.data_ptr() for t, _ in before}
    for t, value in before:
        t.copy_(value)
    for t in now:
        if t.data_ptr() not in known:
            t.zero_()
