"""Where a training step's time goes: by phase, by kind of operator, waiting for data; and which layers are fused.

The steps are those of the Trainer, without records, samples and checkpoints. Some are timed as they are, as many again
under torch.profiler, which slows them a little; the shares are those of the latter.

"Busy" is time in which kernels compute. On the CPU that is the time inside operators (aten::, fastgan::), the
dispatcher's part included and the data set's excluded; on CUDA the time in which the device runs any kernel.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from fastgan.architectures.base import Architecture, Phase, Stage
from fastgan.data.batch import Batch
from fastgan.nn.fuse import FuseReport, fuse
from fastgan.nn.fused import geometry_of
from fastgan.ops._convolution import plan
from fastgan.training.trainer import Trainer

__all__ = ["Layer", "Part", "Profile", "Timeline", "covered", "kind_of", "profile_training"]

WARM_UP = 3  # steps before anything is timed: caches, trials of convolutions, the first batch's checks

DATA, PHASE = "fastgan data", "fastgan phase "
FORWARD = re.compile(r"fastgan::conv(_transpose)?2d_bn_act|(fastgan|aten)::convolution")
PENALTY = re.compile("penalty", re.IGNORECASE)  # of an operator, or of the autograd node around it
KINDS = (
    ("convolution, fused with its neighbours", re.compile(r"conv(_transpose)?2d_bn_act")),
    ("convolution", re.compile("conv")),
    ("batch norm", re.compile("batch_norm|::bn_")),
    ("linear", re.compile(r"::(linear|matmul|mm|addmm|bmm|baddbmm)\b")),
    ("activation", re.compile("relu|tanh|sigmoid|softplus|threshold|elu|maxout")),
)


Shape = tuple[int, ...]
# by (whether transposed, shape of the weight): the shapes of inputs it met, and whether an op of fastgan did the work
Met = dict[tuple[bool, Shape], set[tuple[Shape, bool]]]


@dataclass(frozen=True)
class Part:
    """A row of a table: milliseconds a step; of phases also how long kernels were busy and data was waited for."""

    name: str
    total: float
    busy: float = 0.0
    data: float = 0.0

    def scaled(self, factor: float) -> Part:
        return Part(self.name, self.total * factor, self.busy * factor, self.data * factor)


@dataclass(frozen=True)
class Layer:
    """A convolution: what it is fused with or why with nothing, and what computes (output, gradients of input and
    weight)."""

    name: str
    fusion: str
    implementation: str


@dataclass(frozen=True)
class Profile:
    """What `profile_training` found, in milliseconds a step; as a string, aligned tables."""

    title: str
    steps: int
    plain: float  # without the profiler
    total: float  # under the profiler, as everything below
    busy: float
    data: float
    phases: list[Part]
    kinds: list[Part]
    layers: list[Layer]

    @property
    def busy_share(self) -> float:
        return self.busy / self.total

    def __str__(self) -> str:
        lines = [
            self.title,
            f"step               {self.plain:.1f} ms; {self.total:.1f} ms under the profiler, which the shares are of",
            f"kernels busy       {self.busy_share:.1%}",
            f"waiting for data   {self.data / self.total:.1%}",
            "",
            *_aligned(("phase", "ms", "share", "kernels busy", "waiting for data"), map(self._phase, self.phases)),
            "",
            *_aligned(("kind", "ms", "share"), ((p.name, f"{p.total:.2f}", self._share(p)) for p in self.kinds)),
        ]
        if self.layers:
            rows = ((layer.name, layer.implementation, layer.fusion) for layer in self.layers)
            head = ("convolution", "output, gradients of input, weight", "fused")
            lines += ["", *_aligned(head, rows, left=(0, 1, 2))]
        return "\n".join(lines)

    def _share(self, part: Part) -> str:
        return f"{part.total / self.total:.1%}"

    def _phase(self, part: Part) -> Sequence[str]:
        whole = part.total or 1.0
        within = (f"{part.busy / whole:.1%}", f"{part.data / whole:.1%}")
        return (part.name, f"{part.total:.2f}", self._share(part), *within)


def _aligned(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return [
        "  ".join(
            f"{cell:<{width}}" if i in left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def profile_training(
    architecture: Architecture, data: Any, steps: int = 10, trace: str | Path | None = None, **options: Any
) -> Profile:
    """Profile ``2 * steps`` steps of training after ``WARM_UP``; the architecture is trained by them.

    A penalty by double backward is counted by its operators, as convolutions; the analytic one is "penalty".

    Args:
        architecture, data, options: as ``Trainer`` takes them.
        trace: file to write for chrome://tracing or Perfetto.

    Raises:
        ValueError, TypeError: as of ``Trainer``; or steps is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it takes a whole number from 1")
    if trace is not None:
        Path(trace).parent.mkdir(parents=True, exist_ok=True)
    never = dict.fromkeys(("log_every", "sample_every", "metric_every", "checkpoint_every"))
    trainer = _Profiled(architecture, data, steps=WARM_UP + 2 * steps, progress=False, **never, **options)
    reports = {}
    if options.get("fuse", True):  # again, to be told what came of it
        reports = {name: fuse(network, report=True)[1] for name, network in architecture.named_children()}
    trainer.fit()
    if trainer.step < WARM_UP + 2 * steps:
        raise ValueError(f"the run is over after {trainer.step} steps, fewer than the {WARM_UP + 2 * steps} to profile")
    if trace is not None:
        trainer.profiler.export_chrome_trace(str(trace))
    events, wall = trainer.profiler.events(), trainer.profiled_seconds * 1e6
    timeline = Timeline(events, on_device=trainer.device.type == "cuda")
    milliseconds = 1e-3 / steps  # a step, of microseconds altogether
    size, batch = getattr(architecture.config, "image_size", "?"), trainer.batches.batch_size
    threads = f", threads: {torch.get_num_threads()}" if trainer.device.type == "cpu" else ""
    return Profile(
        title=f"{architecture.name}, {size} px, batch {batch}, {trainer.precision.name} on {trainer.device}{threads}",
        steps=steps,
        plain=trainer.plain_seconds * 1e6 * milliseconds,
        total=wall * milliseconds,
        busy=timeline.busy * milliseconds,
        data=timeline.data * milliseconds,
        phases=[part.scaled(milliseconds) for part in timeline.phases(wall)],
        kinds=[part.scaled(milliseconds) for part in timeline.kinds(wall)],
        layers=_layers(architecture, reports, _convolutions(events)),
    )


# -- the steps ---------------------------------------------------------------------------------------------------------
class _Profiled(Trainer):
    """A Trainer that times the first half of its steps after ``WARM_UP`` and profiles the second, phases and data
    marked."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
        self.profiler = profile(activities=activities, record_shapes=True)
        self.half = (self.steps - WARM_UP) // 2
        self.plain_seconds = self.profiled_seconds = 0.0
        self._began = 0.0
        self._profiling = False

    def fit(self) -> Architecture:
        try:
            return super().fit()
        finally:
            self._stop()  # a profiler left running would be the whole process's

    def _train_step(self, stage: Stage) -> None:
        if self.step == WARM_UP:
            self._began = self._now()
        elif self.step == WARM_UP + self.half:
            self.plain_seconds = self._now() - self._began
            self.profiler.start()
            self._profiling = True
            self._began = self._now()
        super()._train_step(stage)
        if self.step == self.steps:
            self.profiled_seconds = self._now() - self._began
            self._stop()

    def _stop(self) -> None:
        if self._profiling:
            self._profiling = False
            self.profiler.stop()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _train_phase(self, phase: Phase, batch: Batch | None) -> Batch | None:
        with record_function(PHASE + phase.name):
            return super()._train_phase(phase, batch)

    def _next_batch(self) -> Batch:
        with record_function(DATA):
            return super()._next_batch()


# -- what the events say -----------------------------------------------------------------------------------------------
class Timeline:
    """Operators, waits for data and phases among a profiler's events; times in microseconds.

    Args:
        events: of ``torch.profiler.profile``, each with ``name``, ``time_range``, ``cpu_parent`` and ``device_type``.
        on_device: whether the work is done by CUDA kernels, so that operators only launch it.
    """

    def __init__(self, events: Iterable[Any], *, on_device: bool) -> None:
        events = list(events)
        host = [event for event in events if event.device_type == DeviceType.CPU]
        self.on_device = on_device
        self._waits = [_interval(event) for event in host if event.name == DATA]
        self._phases = [(e.name.removeprefix(PHASE), _interval(e)) for e in host if e.name.startswith(PHASE)]
        self._operators = [event for event in host if _is_outermost(event) and DATA not in _around(event)]
        kernels = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        self.busy = covered(map(_interval, kernels if on_device else self._operators))
        self.data = covered(self._waits)

    def _cost(self, operator: Any) -> float:
        return operator.device_time_total if self.on_device else operator.time_range.elapsed_us()

    def phases(self, wall: float) -> list[Part]:
        """By phase its time, that of operators begun in it and of waits in it; last, what belongs to no phase."""
        total: dict[str, list[float]] = {}
        for name, (start, end) in self._phases:
            busy = sum(self._cost(o) for o in self._operators if start <= o.time_range.start < end)
            data = sum(b - a for a, b in self._waits if start <= a < end)
            total[name] = [x + y for x, y in zip(total.get(name, (0.0,) * 3), (end - start, busy, data), strict=True)]
        rest = (wall, sum(map(self._cost, self._operators)), self.data)
        total["averages and the rest"] = [w - sum(p) for w, *p in zip(rest, *total.values(), strict=True)]
        return [Part(name, *values) for name, values in total.items()]

    def kinds(self, wall: float) -> list[Part]:
        """By kind of operator, longest first; then what is no operator's. On the CPU they add up to ``wall``."""
        total: dict[str, float] = defaultdict(float)
        for operator in self._operators:
            total[kind_of(operator.name, _around(operator))] += self._cost(operator)
        parts = [Part(name, time) for name, time in sorted(total.items(), key=lambda item: -item[1])]
        if self.on_device:
            return [*parts, Part("no kernel running", wall - self.busy)]
        return [*parts, Part("data", self.data), Part("outside operators", wall - self.busy - self.data)]


def kind_of(operator: str, around: Sequence[str]) -> str:
    """What an operator is for, by its name and those of the events around it."""
    if any(name.startswith("Optimizer.") for name in around):
        return "optimiser"
    if any(PENALTY.search(name) for name in (operator, *around)):
        return "penalty"
    return next((kind for kind, pattern in KINDS if pattern.search(operator)), "other operators")


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _interval(event: Any) -> tuple[float, float]:
    return event.time_range.start, event.time_range.end


def _around(event: Any) -> list[str]:
    """Names of the events that an event lies in, the innermost first."""
    names = []
    while (event := event.cpu_parent) is not None:
        names.append(event.name)
    return names


def _is_operator(name: str) -> bool:
    return "::" in name and not name.startswith("autograd::")


def _is_outermost(event: Any) -> bool:
    """Whether an event is an operator that no other operator called."""
    return _is_operator(event.name) and not any(map(_is_operator, _around(event)))


# -- layers ------------------------------------------------------------------------------------------------------------
def _convolutions(events: Iterable[Any]) -> Met:
    """What `Met` says, of the outermost convolution operators."""
    met: Met = defaultdict(set)
    for event in events:
        if FORWARD.fullmatch(event.name) and not any(map(FORWARD.fullmatch, _around(event))):
            x, weight = (tuple(shape) for shape in event.input_shapes[:2])
            plain = event.name.endswith("::convolution")
            transposed = event.concrete_inputs[6] if plain else "transpose" in event.name
            met[bool(transposed), weight].add((x, event.name.startswith("fastgan")))
    return met


def _layers(architecture: Architecture, reports: Mapping[str, FuseReport], met: Met) -> list[Layer]:
    return [
        Layer(f"{network}.{name}".rstrip("."), _fusion(reports.get(network), name), _implementation(module, met))
        for network, child in architecture.named_children()
        for name, module in child.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    ]


def _fusion(report: FuseReport | None, name: str) -> str:
    if report is None:
        return "no: fuse is off"
    for chain in report.fused:
        if chain.conv == name:
            return str(chain)
    return f"alone: {report.alone[name]}" if name in report.alone else f"no: {report.left[name]}"


def _implementation(conv: nn.Conv2d | nn.ConvTranspose2d, met: Met) -> str:
    """What computed a convolution in the profiled steps; layers of one weight's shape share the answer."""
    if conv.weight.device.type != "cpu":
        return "as timed: fastgan info --convolutions"
    options = geometry_of(conv).as_aten_arguments()
    found = {
        ", ".join(plan(torch.empty(x), conv.weight, *options)) if ours else "aten"
        for x, ours in met.get((conv.transposed, tuple(conv.weight.shape)), ())
    }
    return " or ".join(sorted(found)) or "did not run"
