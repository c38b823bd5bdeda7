"""CUDA graphs: the update of a phase is recorded once and then replayed by one launch instead of hundreds.

Recorded
    All of ``update`` (loss with its penalty and random numbers, backward, optimiser, ``after``, sums of the losses), a
    graph for each phase; and the move of the averages. Not with make_graphed_callables, which has no double backward:
    the whole update, so that no gradient crosses a graph's border.
When
    After WARM_UP updates in a row that look alike (``_Fingerprint``). They are updates of the run; recording executes
    nothing, and the first replay is the update that was due: a run with graphs does the same updates as one without.
    A change of what was alike (an option, a tensor's address, a batch's shape) begins anew.
What varies
    lies at fixed addresses, written between replays: the batch (static_batches.py), a scheduled learning rate, the
    weight of the averages. Optimisers are made capturable, so that they count their steps on the device. The step
    itself is not known to a graph: a loss or ``after`` that reads it is not recorded.
Stream and memory
    The whole run is on one stream that is not the default one, as capture demands, also of the nodes that autograd
    keeps. The graphs share a memory pool: they are replayed one after the other on that stream, and between them pass
    only tensors that live outside it. (Gradients lie in it; each replay overwrites them before it reads them, and
    ``p.grad`` means nothing between updates.) Workspaces of recorded cuBLAS calls lie in it too: torch keeps one for
    all work on a stream and gives it back when any graph is destroyed, under the others (pytorch issue 193402).
Not recorded
    what waits for the device (in float16 so does the step of an optimiser that is not fused), draws random numbers on
    the CPU, has hooks (a replay would not call them), binds new tensors to names instead of writing into the old ones,
    or fails in a capture. Names and generators are put back, ``report`` and one warning give the reason, and the phase
    goes on eagerly.
Numbers
    A replay launches the kernels of the eager update with its arguments. A graph's Philox offsets are relative to the
    generator's, which every replay moves on by what the eager update draws: the random numbers are the same. So are
    the weights, bit for bit, where kernels are deterministic and the optimiser's capturable form rounds as its other
    one (torch's fused ones do at a fixed learning rate; a scheduled one is float32 here).
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from fastgan.architectures.base import Architecture, Phase, Stage
from fastgan.data.batch import Batch
from fastgan.training import rng
from fastgan.training.batches import BatchStream
from fastgan.training.ema import ExponentialMovingAverage
from fastgan.training.meter import Meter
from fastgan.training.precision import Precision
from fastgan.training.static_batches import Staging, StaticBatches, Upload
from fastgan.training.update import Updates, update

__all__ = ["WARM_UP", "GraphUnsupported", "GraphedUpdates", "Recorder", "make_updates", "uncaptured"]

log = logging.getLogger("fastgan")

# updates alike before a recording; after them kernels are loaded, cuDNN has chosen, and the optimiser has its state
WARM_UP = 2


class GraphUnsupported(RuntimeError):
    """Why an update cannot be a CUDA graph."""


class Recorder(Protocol):
    """What records work on a device and replays it: ``CudaRecorder``, or in the tests an emulation on the CPU."""

    def session(self) -> AbstractContextManager[None]:
        """Around all that is rehearsed, recorded, replayed, and what runs between."""

    def rehearse(self, function: Callable[[], Any]) -> tuple[Any, str | None]:
        """Run ``function``: what it returns, and why it could not be recorded where that shows."""

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Record ``function`` without executing its work on the device: what it returns, and what executes it."""

    def staging(self) -> Staging:
        """How batches get to the device."""


def make_updates(
    architecture: Architecture,
    meter: Meter,
    ema: ExponentialMovingAverage,
    precision: Precision,
    device: torch.device,
) -> Updates:
    """``GraphedUpdates`` where ``device`` is a GPU; elsewhere eager ones that say why."""
    if device.type == "cuda":
        return GraphedUpdates(architecture, meter, ema, precision, CudaRecorder(device))
    updates = Updates(meter, ema, precision)
    updates.report["all"] = f"eager: the device is {device.type}, and CUDA graphs need a GPU"
    log.warning("cuda_graph: %s", updates.report["all"])
    return updates


class GraphedUpdates(Updates):
    """Updates that are recorded where possible. ``report`` says of every phase "recorded" or "eager: why"."""

    def __init__(
        self,
        architecture: Architecture,
        meter: Meter,
        ema: ExponentialMovingAverage,
        precision: Precision,
        recorder: Recorder,
    ) -> None:
        super().__init__(meter, ema, precision)
        self.architecture = architecture
        self.recorder = recorder
        self._graphs: dict[str, _Graph] = {}
        self._stage = ""

    @contextmanager
    def session(self, batches: BatchStream) -> Iterator[None]:
        place = batches.place
        with self.recorder.session():
            batches.place = StaticBatches(batches.device, self.recorder.staging())
            try:
                yield
            finally:
                batches.place = place
                self._forget()

    def begin(self, stage: Stage, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self._forget()
        self._stage = stage.name
        for phase in stage.phases:
            _make_capturable(optimizers[phase.name], scheduled=phase.schedule is not None)

    def update(self, phase: Phase, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> None:
        def body(step: int) -> list[str]:
            return update(phase, optimizer, batch, step, self.meter, self.precision)

        self.meter.count(self._run(phase.name, body, step, optimizer, batch))

    def average(self) -> None:
        if not self.ema.tensors:  # a model that generates nothing: an empty graph
            return
        self.ema.advance()
        self._run("averages", lambda step: self.ema.apply(), None, None, None)

    def _forget(self) -> None:
        """Give the graphs back, and the gradients that lie in their memory."""
        self._graphs.clear()
        self.architecture.zero_grad(set_to_none=True)

    def _run(
        self,
        name: str,
        body: Callable[[Any], Any],
        step: int | None,
        optimizer: torch.optim.Optimizer | None,
        batch: Batch | None,
    ) -> Any:
        """``body(step)``, or the replay of its recording."""
        graph = self._graphs.get(name)
        if graph is not None and graph.refused:
            return body(step)
        fingerprint = _Fingerprint.take(self.architecture, optimizer, batch)
        if graph is None or fingerprint != graph.fingerprint:
            change = "too few updates so far" if graph is None else fingerprint.difference(graph.fingerprint)
            self.report[f"{self._stage}/{name}"] = f"eager: {change}"
            graph = self._graphs[name] = _Graph(fingerprint)
        if graph.warm < WARM_UP:
            graph.warm += 1
            if graph.warm < WARM_UP:
                return body(step)
            result, complaint = self.recorder.rehearse(partial(body, step))
            if complaint:
                self._refuse(name, graph, complaint)
            return result
        if graph.replay is None:
            try:
                self._record(graph, body, optimizer)
            except Exception as error:  # an error of the user's own comes again from the eager update
                self._refuse(name, graph, _reason(error))
                self.precision.forget_attempt(name)
                return body(step)
            self.report[f"{self._stage}/{name}"] = "recorded"
        graph.replay()
        return graph.result

    def _refuse(self, name: str, graph: _Graph, reason: str) -> None:
        graph.refused = True
        self.report[f"{self._stage}/{name}"] = f"eager: {reason}"
        log.warning("cuda_graph: %s of stage %s runs without a graph: %s", name, self._stage, reason)

    def _record(self, graph: _Graph, body: Callable[[Any], Any], optimizer: torch.optim.Optimizer | None) -> None:
        """Fill in ``graph``, or raise with everything on the host as it was."""
        if optimizer is not None:
            _refuse_hooks(self.architecture, optimizer)
        named = [self.meter.sums, self.ema.tensors, self.precision.skipped]
        bindings = _Bindings([*named, *_names(self.architecture, optimizer)])
        generators = rng.get_state()
        try:
            result, replay = self.recorder.record(partial(body, _UnknownStep()))
            if bound := bindings.changed():
                raise GraphUnsupported(f"it binds something new to {bound} instead of writing into the tensor there")
            if not rng.equal(generators, rng.get_state()):
                raise GraphUnsupported("it draws random numbers on the CPU")
        except BaseException:
            bindings.restore()
            raise
        finally:
            rng.set_state(generators)
        graph.result, graph.replay = result, replay


@dataclass
class _Graph:
    fingerprint: _Fingerprint
    warm: int = 0  # updates with this fingerprint
    replay: Callable[[], None] | None = None
    result: Any = None  # what the recorded function returned
    refused: bool = False


class _Fingerprint(NamedTuple):
    """What a recording takes for constant. Taken before every update: a graph reads addresses, not names."""

    batch: tuple
    options: tuple
    state: tuple
    tensors: tuple
    modules: tuple

    @classmethod
    def take(
        cls, architecture: nn.Module, optimizer: torch.optim.Optimizer | None, batch: Batch | None
    ) -> _Fingerprint:
        groups = optimizer.param_groups if optimizer is not None else []
        states = [optimizer.state.get(p, {}) for group in groups for p in group["params"]]
        modules = list(architecture.modules())
        return cls(
            tuple(
                (name, value.data_ptr(), value.shape, value.stride(), value.dtype)
                for name, value in (vars(batch).items() if batch is not None else ())
                if value is not None
            ),
            tuple(
                (name, value.data_ptr() if isinstance(value, torch.Tensor) else value)
                for group in groups
                for name, value in group.items()
                if name != "params"
            ),
            tuple(v.data_ptr() for state in states for v in state.values() if isinstance(v, torch.Tensor)),
            tuple(
                (t.data_ptr(), t.requires_grad)
                for m in modules
                for tensors in (m._parameters, m._buffers)
                for t in tensors.values()
                if t is not None
            ),
            tuple((m.training, _has_hooks(m)) for m in modules),
        )

    def difference(self, other: _Fingerprint) -> str:
        """What changed, in words."""
        if self.options != other.options:
            names = [name for (name, a), (_, b) in zip(self.options, other.options, strict=False) if a != b]
            return f"{' and '.join(dict.fromkeys(names))} of its optimiser changed before the latest update"
        words = {
            "batch": "the batch's shape or place",
            "state": "the tensors of its optimiser's state",
            "tensors": "a network's parameters or buffers",
            "modules": "a network's mode or hooks",
        }
        changed = [word for field, word in words.items() if getattr(self, field) != getattr(other, field)]
        return f"{' and '.join(changed)} changed before the latest update"


class _Bindings:
    """What names hold: to find what a recording rebinds, since a replay would not, and to undo it."""

    def __init__(self, names: Iterable[dict]) -> None:
        self._before = [(held, dict(held)) for held in names]

    def changed(self) -> str:
        """The names, empty where all hold what they held."""
        return ", ".join(
            repr(key) if isinstance(key, str) else "an optimiser's state"
            for held, before in self._before
            for key in {**before, **held}
            if not _same(held.get(key), before.get(key))
        )

    def restore(self) -> None:
        for held, before in self._before:
            for key in [key for key in held if key not in before]:
                del held[key]
            held.update(before)


def _names(architecture: nn.Module, optimizer: torch.optim.Optimizer | None) -> list[dict]:
    """The dictionaries in which networks and optimiser keep their tensors."""
    names: list[dict] = [d for m in architecture.modules() for d in (m._parameters, m._buffers)]
    if optimizer is not None:
        names += [*optimizer.param_groups, optimizer.state, *optimizer.state.values()]
    return names


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, (bool, int, float, str)) and a == b)


class _UnknownStep:
    """Takes the step's place in a recording, which would repeat for ever what was computed from the number."""

    def _refuse(self, *_: Any) -> Any:
        raise GraphUnsupported("its loss, or what follows the update, depends on the step")

    __bool__ = __int__ = __float__ = __index__ = __hash__ = __str__ = __format__ = __getattr__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __pos__ = __abs__ = __invert__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = __pow__ = __rpow__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _refuse
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _refuse


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _refuse_hooks(architecture: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for name, module in architecture.named_modules():
        if _has_hooks(module):
            raise GraphUnsupported(f"{name or 'the architecture'} has a hook, which a replay would not call")
    for name, p in architecture.named_parameters():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            raise GraphUnsupported(f"the parameter {name} has a hook, which a replay would not call")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise GraphUnsupported("its optimiser has a hook, which a replay would not call")


def _reason(error: BaseException) -> str:
    """Of a chain of errors the one that began it: CUDA reports the end of a failed capture as one more."""
    while not isinstance(error, GraphUnsupported) and (before := error.__cause__ or error.__context__) is not None:
        error = before
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, GraphUnsupported) else f"{type(error).__name__}: {lines[0]}"


# -- optimisers --------------------------------------------------------------------------------------------------------


def _make_capturable(optimizer: torch.optim.Optimizer, *, scheduled: bool) -> None:
    """Let ``optimizer`` count its steps on the device and, if that is to change, read its learning rate there."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        capturable = "capturable" in group
        if capturable:
            group["capturable"] = True
            for state in (optimizer.state.get(p, {}) for p in group["params"]):
                if isinstance(state.get("step"), torch.Tensor):  # counted on the CPU by a run without graphs
                    state["step"] = state["step"].to(device, torch.float32)
        if scheduled and (capturable or group.get("fused")):  # others would read the tensor back to the CPU
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
    optimizer._warned_capturable_if_run_uncaptured = True  # the updates before a recording are on purpose


def uncaptured(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's saved ``state`` as a run without graphs would have saved it; ``optimizer`` was just made."""
    groups = []
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=False):
        group = dict(saved)
        if "capturable" in own:
            group["capturable"] = own["capturable"]
        if isinstance(group.get("lr"), torch.Tensor) and not isinstance(own["lr"], torch.Tensor):
            group["lr"] = float(group["lr"])
        groups.append(group)
    return {**state, "param_groups": groups + list(state["param_groups"][len(groups) :])}


# -- the device --------------------------------------------------------------------------------------------------------


def _clear_cublas_workspaces() -> None:
    getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()


class CudaRecorder:
    """Records on ``device``, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def session(self) -> Iterator[None]:
        with torch.cuda.device(self.device):
            outer = torch.cuda.current_stream()
            self.stream.wait_stream(outer)
            try:
                with torch.cuda.stream(self.stream):
                    yield
            finally:
                outer.wait_stream(self.stream)

    def rehearse(self, function: Callable[[], Any]) -> tuple[Any, str | None]:
        """Waiting for the device shows here, before a capture fails by it: not every torch recovers its memory then."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = function()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for warning in caught:
            if "called a synchronizing" in str(warning.message):
                return result, f"it waits for the device, in {warning.filename}, line {warning.lineno}"
        return result, None

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # a collection could free pinned memory or another graph: calls that a capture forbids
        _clear_cublas_workspaces()  # the capture takes one from its pool
        try:
            # thread_local: a loader's thread that pins memory does not disturb
            with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
                result = function()
        except BaseException:
            self._pool = torch.cuda.graph_pool_handle()  # the old one may still count as being recorded into
            raise
        finally:
            torch.cuda.set_stream(self.stream)  # which a capture that failed to end does not do
            _clear_cublas_workspaces()  # and eager work another one
            if collecting:
                gc.enable()
        return result, graph.replay

    def staging(self) -> Staging:
        return Upload(self.device)
