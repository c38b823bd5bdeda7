"""CudaRecorder without a GPU: what it calls, in what order, and what it leaves when something fails."""

from __future__ import annotations

import gc
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from fastgan.training import graphs

REAL = torch.cuda


class Stream:
    def __init__(self, name: object) -> None:
        self.name, self.waited = name, []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


class Graph:
    replay = staticmethod(lambda: "replayed")


class FakeCuda:
    """Stands for torch.cuda. Calls must fit the signatures of the real functions, with which they are compared."""

    def __init__(self) -> None:
        self.outer = self.now = Stream("outer")
        self.pools = iter(range(10))
        self.captures: list[dict] = []
        self.calls: list[str] = []
        self.collecting: list[bool] = []
        self.mode = 0
        self.end: Exception | None = None  # raised where a capture ends
        self.Stream, self.CUDAGraph = Stream, Graph

    def graph_pool_handle(self) -> int:
        return next(self.pools)

    def current_stream(self) -> Stream:
        return self.now

    def set_stream(self, stream: Stream) -> None:
        self.now = stream

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(self, *args: object, **kwargs: object) -> Iterator[None]:
        self.calls.append("capture")
        self.captures.append(inspect.signature(REAL.graph).bind(*args, **kwargs).arguments)
        self.collecting.append(gc.isenabled())
        self.now = Stream("left by a capture that failed")
        try:
            yield
        finally:
            if self.end:
                raise self.end
        self.now = kwargs["stream"]

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        inspect.signature(REAL.set_sync_debug_mode).bind(mode)
        warnings.warn("Synchronization debug mode does not yet detect all synchronizing operations", stacklevel=1)
        self.mode = {"default": 0, "warn": 1}.get(mode, mode)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(graphs.torch, "cuda", fake)
    clear = partial(fake.calls.append, "clear cuBLAS workspaces")
    monkeypatch.setattr(graphs.torch._C, "_cuda_clearCublasWorkspaces", clear, raising=False)
    return fake


def test_a_session_is_on_one_stream_ordered_with_the_users(cuda: FakeCuda) -> None:
    recorder = graphs.CudaRecorder(torch.device("cuda"))
    with pytest.raises(KeyError), recorder.session():
        assert cuda.now is recorder.stream and recorder.stream.waited == [cuda.outer] and not cuda.outer.waited
        raise KeyError
    assert cuda.now is cuda.outer and cuda.outer.waited == [recorder.stream]


def test_a_recording(cuda: FakeCuda) -> None:
    recorder = graphs.CudaRecorder(torch.device("cuda"))
    for _ in range(2):
        result, replay = recorder.record(lambda: "result")
        assert (result, replay()) == ("result", "replayed")
    first, second = cuda.captures
    assert first["pool"] == second["pool"] == 0, "graphs of one run share their memory"
    assert first["stream"] is recorder.stream and first["capture_error_mode"] == "thread_local"
    assert cuda.collecting == [False, False] and gc.isenabled()


@pytest.mark.parametrize("end", [None, RuntimeError("the capture was invalidated")])
def test_a_recording_that_fails(cuda: FakeCuda, end: Exception | None) -> None:
    def fails() -> None:
        raise ValueError("first\nand more")

    cuda.end = end
    recorder = graphs.CudaRecorder(torch.device("cuda"))
    with pytest.raises((ValueError, RuntimeError)) as caught:
        recorder.record(fails)
    assert graphs._reason(caught.value) == "ValueError: first"
    assert cuda.calls == ["clear cuBLAS workspaces", "capture", "clear cuBLAS workspaces"]
    assert cuda.now is recorder.stream and gc.isenabled()
    cuda.end = None
    recorder.record(lambda: None)
    assert cuda.captures[1]["pool"] != cuda.captures[0]["pool"], "torch may still count the first as in use"


def waits() -> int:
    warnings.warn("called a synchronizing CUDA operation (Triggered internally)", UserWarning, stacklevel=1)
    return 3


LINE = waits.__code__.co_firstlineno + 1


@pytest.mark.parametrize("function", [waits, lambda: 3])
def test_a_rehearsal(cuda: FakeCuda, function: Callable) -> None:
    cuda.mode = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, complaint = graphs.CudaRecorder(torch.device("cuda")).rehearse(function)
    assert result == 3 and cuda.mode == 2
    assert complaint == (f"it waits for the device, in {__file__}, line {LINE}" if function is waits else None)
