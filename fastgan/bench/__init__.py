"""fastgan's benchmarks: real GAN layers and training steps against the strongest PyTorch, in one process.

    from fastgan import bench
    rows = bench.run(["conv"], out="results")               # or: python -m fastgan.bench --only conv --out results

Each row first checks that all providers compute the same thing, then times them interleaved (timer.py), then measures
peak memory (memory.py). Results carry their environment (report.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from fastgan import ops
from fastgan.bench import clip_weights, conv_bn_act, equality, gradient_penalty, memory, report, rmsprop, step, timer
from fastgan.bench.case import Case, Workload
from fastgan.bench.report import Row
from fastgan.bench.shapes import BATCH_SIZE

__all__ = ["Case", "Row", "all_cases", "run", "select"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def all_cases(batch_size: int = BATCH_SIZE) -> list[Case]:
    """Everything that is benchmarked, ops first."""
    return [
        *conv_bn_act.cases(batch_size),
        *clip_weights.cases(),
        *rmsprop.cases(),
        *gradient_penalty.cases(batch_size),
        *step.cases(batch_size),
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
        dtype: "float32", "bfloat16" or "float16"; networks run under autocast. Cases without that dtype are left out.
        implementation: fastgan's, as in ``ops.use``: "auto", "reference" or "kernel".
        compiled: torch.compile is a provider too (compiling takes minutes on a small CPU).
        measure_memory: peak memory of fastgan's and of the strongest PyTorch provider.
        cases, settings: in place of all cases, and of how long to measure.
        show: takes each line of the table.

    Raises:
        ValueError: a selection, device or dtype that there is none of.
        UnequalError: two providers compute different things.
    """
    torch_device, torch_dtype = _device(device), _dtype(dtype)
    pool = all_cases() if cases is None else cases
    chosen = [case for case in select(selection, pool) if torch_dtype in case.dtypes]
    if quick and not selection:
        chosen = [case for case in chosen if case.quick]
    if not chosen:
        raise ValueError(f"dtype is {dtype!r}, in which none of the chosen benchmarks runs")
    settings = settings or (timer.QUICK if quick else timer.Settings())
    rows: list[Row] = []
    current_device = torch.cuda.device(torch_device) if torch_device.type == "cuda" else nullcontext()
    with ops.use(implementation), current_device:
        facts = report.environment(torch_device)
        path = None if out is None else report.result_file(out, facts)
        show(_title(facts))
        show(report.header())
        for case in chosen:
            for row in _rows(case, torch_dtype, torch_device, settings, compiled, measure_memory):
                rows.append(row)
                show(report.format_row(row))
            if path is not None:
                report.write(path, facts, rows)
    show(_summary(rows, path))
    return rows


def _rows(
    case: Case,
    dtype: torch.dtype,
    device: torch.device,
    settings: timer.Settings,
    compiled: bool,
    measure_memory: bool,
) -> Iterator[Row]:
    """The case's rows, one a mode. Every provider is set up once for all of them, checked, and timed."""
    expected = equality.oracle(case, dtype, device)
    settings = dataclasses.replace(settings, budget_s=settings.budget_s * case.patience)
    by_mode = {mode: case.providers(mode, compiled) for mode in case.modes}
    workloads: dict[str, Workload] = {}
    for provider in dict.fromkeys(p for providers in by_mode.values() for p in providers):
        workloads[provider] = case.setup(provider, dtype, device)
        equality.check_equal(case, provider, workloads[provider].results(), expected, dtype)
    del expected
    implementations = {provider: w.implementation for provider, w in workloads.items()}
    for mode, providers in by_mode.items():
        timing = timer.interleave({p: workloads[p].modes[mode] for p in providers}, device, settings)
        row = report.row(case, mode, dtype, device, timing, implementations)
        if measure_memory:
            peaks = {p: memory.peak_memory(case, p, mode, dtype, device) for p in (row.ours, row.strongest)}
            if None not in peaks.values():
                row = dataclasses.replace(row, peak_memory=peaks)
        yield row


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


def _dtype(dtype: str) -> torch.dtype:
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it takes one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _title(facts: dict[str, object]) -> str:
    where = facts["gpu"] or f"{facts['cpu']}, {facts['threads']} threads, {facts['cpu_capability']}"
    return f"fastgan {facts['fastgan']}, torch {facts['torch']} on {where}; extension {facts['extension']}"


def _summary(rows: list[Row], path: Path | None) -> str:
    below = [r for r in rows if not (r.passed and r.memory_passed)]
    noisy = sum(r.noisy for r in rows)
    text = f"{len(rows)} rows, {len(rows) - len(below)} at or over their bar"
    text += f", {noisy} measured while other processes ran" if noisy else ""
    return text + (f"; written to {path}" if path else "")
