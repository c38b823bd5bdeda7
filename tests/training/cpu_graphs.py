"""CUDA graphs on the CPU: what a device does with a graph and with streams, done to CPU tensors.

``CpuRecorder`` records every operator with the very tensors it got, executes nothing in effect, and replays the
operators on those tensors: Python does not run again, its numbers are frozen, and results appear where they were when
recorded. That is a CUDA graph, so what would go wrong on a device (a number baked in, a name bound anew, a state that
Python counts) goes wrong here.

``Device`` gives streams whose work is done late, in any order that their events allow.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgan.training import graphs

READ_BACK = torch.ops.aten._local_scalar_dense.default


class CpuRecorder:
    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def session(self) -> nullcontext:
        return nullcontext()

    def rehearse(self, function: Callable[[], Any]) -> tuple[Any, str | None]:
        with _Rehearsal() as seen:
            return function(), "it waits for the device" if seen.read_back else None

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.recordings += 1
        recording = _Recording()
        with recording.undone(), recording:
            result = function()

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return result, replay

    def staging(self) -> Callable:
        return nullcontext


class _Rehearsal(TorchDispatchMode):
    read_back = False

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.read_back |= operator is READ_BACK
        return operator(*args, **(kwargs or {}))


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []
        self.own: set[int] = set()  # addresses of memory made inside; `calls` keeps it alive
        self.before: dict[int, tuple] = {}  # of other memory: storage, content before the recording

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator is READ_BACK:
            raise RuntimeError("operation not permitted when stream is capturing\nwith more lines")
        inputs = {_address(t) for t in _tensors((args, kwargs))}
        for tensor in _tensors((args, kwargs)):
            if _address(tensor) not in self.own and _address(tensor) not in self.before:
                storage = tensor.untyped_storage()
                self.before[_address(tensor)] = storage, storage.clone()
        output = operator(*args, **kwargs)
        made = [_address(t) not in inputs for t in _tensors(output)]  # the others are views of inputs, or inputs
        self.own.update(_address(t) for t, new in zip(_tensors(output), made, strict=True) if new)
        self.calls.append((operator, args, kwargs, _tensors(output), made))
        return output

    @contextmanager
    def undone(self) -> Iterator[None]:
        generator = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(generator)
            for storage, content in self.before.values():
                storage.copy_(content)
            for address in self.own:  # a recording computes nothing
                for tensor in self._made_at(address):
                    if tensor.is_floating_point():
                        tensor.fill_(float("nan"))

    def _made_at(self, address: int) -> list[torch.Tensor]:
        return [
            tensor.detach()
            for *_, output, made in self.calls
            for tensor, new in zip(output, made, strict=True)
            if new and _address(tensor) == address
        ]

    @torch.no_grad()
    def replay(self) -> None:
        for operator, args, kwargs, output, made in self.calls:
            results = _tensors(operator(*args, **kwargs))
            for place, result, new in zip(output, results, made, strict=True):
                if new:
                    place.copy_(result)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> CpuRecorder:
    """Lets ``Trainer(cuda_graph=True)`` record on the CPU."""
    recorder = CpuRecorder()
    monkeypatch.setattr(graphs, "make_updates", lambda *four, device: graphs.GraphedUpdates(*four, recorder))
    for name in ("adam", "rmsprop"):
        module = importlib.import_module(f"torch.optim.{name}")
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])
    return recorder
