"""fastgan's benchmarks: real GAN layers and training steps against the strongest PyTorch, in one process.

    from fastgan import bench
    rows = bench.run(["conv"], out="results")               # or: python -m fastgan.bench --only conv --out results

Each row first checks that all providers compute the same thing, then times them interleaved (timer.py), then measures
peak memory (memory.py). Results carry their environment (report.py). On a GPU every provider also runs in a CUDA graph
(workloads.py), and each time stands beside the least one possible (floor.py, ceilings.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fastgan import ops
from fastgan.bench import (
    ceilings,
    clip_weights,
    conv_bn_act,
    equality,
    gradient_penalty,
    memory,
    network,
    passes,
    preset,
    report,
    rmsprop,
    step,
    timer,
    workloads,
)
from fastgan.bench.case import COPY, Case, Workload, base_of, is_ours
from fastgan.bench.ceilings import Ceilings
from fastgan.bench.report import Floor, Row
from fastgan.bench.shapes import BATCH_SIZE, CUDA_BATCH_SIZE

__all__ = ["Case", "LeftOutError", "Row", "all_cases", "run", "select"]

DTYPES = {
    "float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip


class LeftOutError(RuntimeError):
    """The run is over and its rows are written, but some providers failed and are in none of them."""


def all_cases(device: str = "cpu", batches: Sequence[int] = ()) -> list[Case]:
    """Everything that is benchmarked, ops first; on a GPU with the passes over memory.

    batches: in place of the device's batch size. Names carry the batch, but for the CPU's own.
    """
    cuda = device != "cpu"
    named, batches = cuda or bool(batches), batches or [CUDA_BATCH_SIZE if cuda else BATCH_SIZE]
    suffixes = {n: f", batch {n}" if named else "" for n in batches}
    return [
        *(case for n in suffixes if cuda for case in passes.cases(n)),
        *(case for n in suffixes for case in conv_bn_act.cases(n, suffixes[n])),
        *clip_weights.cases(),
        *rmsprop.cases(),
        *(case for n in suffixes for case in gradient_penalty.cases(n, suffixes[n])),
        *(case for n in suffixes for case in network.cases(n)),
        *(case for n in suffixes for case in step.cases(n)),
        *(() if cuda else preset.cases()),
    ]


def select(selection: Sequence[str] | None, cases: Sequence[Case]) -> list[Case]:
    """The cases whose "op name" contains one of the words; all of them where ``selection`` is empty.

    Raises:
        ValueError: a word matches nothing.
    """
    for word in selection or ():
        if not any(word in str(case) for case in cases):
            names = "; ".join(map(str, cases))
            raise ValueError(f"only is {word!r}, which is in the name of no benchmark here. There are: {names}")
    return [case for case in cases if not selection or any(word in str(case) for word in selection)]


def run(
    selection: Sequence[str] | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    quick: bool = False,
    *,
    batches: Sequence[int] = (),
    dtype: str = "float32",
    implementation: str = "auto",
    compiled: bool = False,
    measure_memory: bool = True,
    cases: Sequence[Case] | None = None,
    settings: timer.Settings | None = None,
    show: Callable[[str], None] = print,
) -> list[Row]:
    """Measure and return the rows; print a table; write ``out``, if given, after every case.

    Args:
        selection: words; a case is taken if its name contains one of them. None: all.
        device: "cpu", "cuda" or "cuda:N".
        out: a .json file, or a folder that gets ``<machine>/<date>-<commit>.json``. None: nothing is written.
        quick: one layer an op, fewer rounds: a look, not a measurement.
        batches: batch sizes in place of the device's own; then names carry them.
        dtype: "float32", "bfloat16" or "float16"; networks run under autocast. Cases without that dtype are left out.
            On a GPU "float32" uses no TF32, on either side, and "tf32" uses it on both.
        implementation: fastgan's, as in ``ops.use``: "auto", "reference" or "kernel".
        compiled: torch.compile is a provider too (compiling takes minutes on a small CPU).
        measure_memory: peak memory of fastgan's and of the strongest PyTorch provider.
        cases, settings: in place of all cases, and of how long to measure.
        show: takes each line of the table.

    Raises:
        ValueError: a selection, device, dtype or batch size that there is none of.
        UnequalError: two providers compute different things.
        LeftOutError: on a GPU, at the end: providers failed, or computed something else; the other rows are there.
    """
    torch_device, torch_dtype = _device(device), _dtype(dtype, device)
    if min(batches, default=1) < 1:
        raise ValueError(f"batches is {list(batches)}; it takes 1 and more")
    pool = all_cases(torch_device.type, batches) if cases is None else cases
    chosen = [case for case in select(selection, pool) if torch_dtype in case.dtypes]
    if quick and not selection:
        chosen = [case for case in chosen if case.quick]
    if not chosen:
        raise ValueError(f"dtype is {dtype!r}, in which none of the chosen benchmarks runs")
    on_gpu = torch_device.type == "cuda"
    settings = settings or (timer.QUICK if quick else timer.CUDA if on_gpu else timer.Settings())
    rows: list[Row] = []
    current_device = torch.cuda.device(torch_device) if on_gpu else nullcontext()
    with ops.use(implementation), current_device, _precision(dtype) if on_gpu else nullcontext():
        found = ceilings.measure(torch_device, torch_dtype) if on_gpu else None
        facts = report.environment(torch_device) | {"ceilings": found and dataclasses.asdict(found)}
        path = None if out is None else report.result_file(out, facts)
        bench = _Run(torch_device, torch_dtype, dtype, settings, compiled, measure_memory, found, not on_gpu)
        show(_title(facts))
        show(report.header())
        for case in chosen:
            for row in bench.rows(case):
                rows.append(row)
                show(report.format_row(row))
            if path is not None:
                report.write(path, facts, rows, bench.left_out)
    show(_summary(rows, path))
    if bench.left_out:
        raise LeftOutError("left out: " + "; ".join(f"{name}: {why}" for name, why in bench.left_out.items()))
    return rows


@dataclass
class _Run:
    """What all rows of a run have in common."""

    device: torch.device
    dtype: torch.dtype
    precision: str
    settings: timer.Settings
    compiled: bool
    measure_memory: bool
    ceilings: Ceilings | None
    strict: bool  # a provider that fails ends the run; else it is left out
    left_out: dict[str, str] = field(default_factory=dict)  # "case: provider": what it failed with

    def rows(self, case: Case) -> Iterator[Row]:
        """The case's rows, one a mode. Every provider is set up once for all of them, checked, and timed."""
        expected = equality.oracle(case, self.dtype, self.device)
        settings = dataclasses.replace(self.settings, budget_s=self.settings.budget_s * case.patience)
        by_mode = {mode: workloads.providers(case, mode, self.compiled, self.device) for mode in case.modes}
        copies = workloads.sets(case, case.modes[0], self.dtype, self.device)
        made: dict[str, Workload] = {}
        for provider in dict.fromkeys(p for providers in by_mode.values() for p in providers):
            modes = [mode for mode, providers in by_mode.items() if provider in providers]
            try:
                workload = self._checked(case, provider, modes, copies, expected)
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                if self.strict:
                    raise
                self.left_out[f"{case}: {provider}"] = f"{type(error).__name__}: {error}".splitlines()[0]
            else:
                made[provider] = workload
        del expected
        implementations = {provider: w.implementation for provider, w in made.items()}
        for mode, providers in by_mode.items():
            functions = {p: made[p].modes[mode] for p in providers if p in made}
            if {is_ours(p) for p in functions if base_of(p) != COPY} != {True, False}:
                continue  # one of the two sides is left out whole
            timing = timer.interleave(functions, self.device, settings, copies)
            work = case.work(mode, self.dtype) if self.ceilings else None
            floor = work and Floor.of(work, self.ceilings)
            row = report.row(case, mode, self.precision, self.device, timing, implementations, floor)
            yield self._with_memory(row, case, mode)

    def _checked(
        self, case: Case, provider: str, modes: list[str], copies: int, expected: dict[str, torch.Tensor]
    ) -> Workload:
        """The provider's workload, once its results are right and each of its modes has run."""
        workload = workloads.set_up(case, provider, self.dtype, self.device, copies)
        if base_of(provider) != COPY:
            equality.check_equal(case, provider, workload.results(), expected, self.dtype)
        if self.device.type == "cuda":  # so that a failure is this provider's alone; a capture happens here
            for mode in modes:
                workload.modes[mode]()
            torch.cuda.synchronize(self.device)
        return workload

    def _with_memory(self, row: Row, case: Case, mode: str) -> Row:
        """The row with the peak memory of both sides, each without its graph, which keeps what it once took."""
        if not self.measure_memory:
            return row
        names = {p: base_of(p) for p in (row.ours, row.strongest)}
        peaks = {p: memory.peak_memory(case, name, mode, self.dtype, self.device) for p, name in names.items()}
        return row if None in peaks.values() else dataclasses.replace(row, peak_memory=peaks)


@contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """Products of float32 in TF32 or not, and cuDNN's algorithms chosen by trial: the same for both sides."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = dtype == "tf32"
    cudnn.benchmark = True
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def _device(device: str) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it takes cpu, cuda or cuda:N")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but this torch ({torch.__version__}) sees no CUDA device; use cpu")
    return found


def _dtype(dtype: str, device: str) -> torch.dtype:
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it takes one of {', '.join(DTYPES)}")
    if dtype == "tf32" and device == "cpu":
        raise ValueError("dtype is 'tf32', which only GPUs compute in; use float32")
    return DTYPES[dtype]


def _title(facts: dict[str, object]) -> str:
    where = facts["gpu"] or f"{facts['cpu']}, {facts['threads']} threads, {facts['cpu_capability']}"
    title = f"fastgan {facts['fastgan']}, torch {facts['torch']} on {where}; extension {facts['extension']}"
    if not (found := facts["ceilings"]):
        return title
    copied, multiplied = found["bytes_per_s"] / 1e12, found["flops_per_s"] / 1e12
    return f"{title}; copies {copied:.2f} TB/s, multiplies {multiplied:.0f} TFLOP/s"


def _summary(rows: list[Row], path: Path | None) -> str:
    below = [r for r in rows if not (r.passed and r.memory_passed) or r.missed]
    noisy = sum(r.noisy for r in rows)
    text = f"{len(rows)} rows, {len(rows) - len(below)} at or over their bar"
    text += f", {noisy} measured while other processes ran" if noisy else ""
    return text + (f"; written to {path}" if path else "")
