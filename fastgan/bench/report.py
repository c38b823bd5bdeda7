"""What a run leaves: rows, the environment they were measured in, a table and a JSON file; and two files compared.

A file is {"schema": 1, "environment": {...}, "rows": [...]}; a row is Row's fields, times in seconds, memory in bytes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

import fastgan
from fastgan.bench.case import COPY, GRAPH, Case, base_of, is_ours
from fastgan.bench.ceilings import Ceilings
from fastgan.bench.floor import Work
from fastgan.bench.timer import Spread, Timing

__all__ = [
    "SCHEMA", "Floor", "Row", "compare", "environment", "format_row", "header", "machine", "read", "result_file", "row",
    "table", "write",
]  # fmt: skip

SCHEMA = 1
CLOSE_S = 50e-6  # "never slower" allows this much
WORSE = 1.05  # compare() reports what got slower, or larger, by more than this factor ...
LIKE = ("device", "cpu", "cores", "threads", "cpu_capability", "gpu")  # ... on machines that agree in these


@dataclass(frozen=True)
class Floor:
    """The least time of a row's work on this device, and what it was counted from."""

    seconds: float
    bound_by: str  # "bytes" or "flops"
    bytes: int
    flops: int

    @classmethod
    def of(cls, work: Work, ceilings: Ceilings) -> Floor:
        return cls(ceilings.floor_s(work), ceilings.bound_by(work), work.bytes, work.flops)


@dataclass(frozen=True)
class Row:
    """One mode of one case: fastgan's best layout against the fastest PyTorch."""

    op: str
    case: str
    mode: str
    dtype: str
    device: str
    implementation: str  # what ran underneath fastgan's provider
    ours: str  # fastgan's faster provider
    strongest: str  # PyTorch's fastest provider
    speedup: Spread  # strongest / ours, over rounds
    layout_speedup: dict[str, float]  # fastgan's providers, each over PyTorch's eager one in the same layout
    bar: float
    passed: bool  # speedup >= bar, or for a bar of "never slower" within 50 us
    seconds: dict[str, Spread]  # a call, by provider
    calls: dict[str, int]  # calls in a timed sample
    rounds: int
    dropped: int  # rounds left out because other processes ran
    noisy: bool  # too few undisturbed rounds: disturbed ones were used
    peak_memory: dict[str, int] | None = None  # bytes, of ours and strongest
    memory_bar: float | None = None
    # On a GPU:
    floor: Floor | None = None
    against: dict[str, float] | None = None  # how often faster than "eager" and "strongest"; share of "copy"
    goals: dict[str, float] | None = None  # what of these is asked for

    @property
    def missed(self) -> list[str]:
        """The goals that are not reached, in words."""
        reached = self.against or {}
        return [f"{over} {reached[over]:.2f} of {g:g}" for over, g in (self.goals or {}).items() if reached[over] < g]

    @property
    def key(self) -> str:
        return f"{self.op} | {self.case} | {self.mode} | {self.dtype}"

    @property
    def memory_ratio(self) -> float | None:
        """fastgan's peak over PyTorch's."""
        if not self.peak_memory:
            return None
        return self.peak_memory[self.ours] / max(self.peak_memory[self.strongest], 1)

    @property
    def memory_passed(self) -> bool:
        return self.memory_bar is None or self.memory_ratio is None or self.memory_ratio <= self.memory_bar


def row(
    case: Case,
    mode: str,
    precision: str,
    device: torch.device,
    timing: Timing,
    implementations: dict[str, str],
    floor: Floor | None = None,
) -> Row:
    """The row that a timing makes; memory is added later. precision: "float32", "tf32", "bfloat16" or "float16"."""
    ours = timing.fastest([p for p in timing.seconds if is_ours(p)])
    strongest = timing.fastest([p for p in timing.seconds if is_theirs(p)])
    speedup = timing.speedup(ours, strongest)
    seconds = {provider: timing.spread(provider) for provider in timing.seconds}
    twins = {p: "eager" + p.removeprefix("fastgan") for p in timing.seconds if is_ours(p)}
    against = goals = None
    if device.type == "cuda":
        others = {"eager": "eager", "strongest": strongest, "copy": COPY + GRAPH}
        against = {name: timing.speedup(ours, p).median for name, p in others.items() if p in timing.seconds}
        goals = {name: goal for name, goal in case.cuda_goals(mode, precision).items() if name in against}
    bar = (goals or {}).get("strongest", case.bar)
    return Row(
        op=case.op,
        case=case.name,
        mode=mode,
        dtype=precision,
        device=device.type,
        implementation=implementations[ours],
        ours=ours,
        strongest=strongest,
        speedup=speedup,
        layout_speedup={p: timing.speedup(p, twin).median for p, twin in twins.items() if twin in timing.seconds},
        bar=bar,
        passed=is_passed(speedup.median, bar, seconds[ours].median - seconds[strongest].median),
        seconds=seconds,
        calls=timing.calls,
        rounds=len(timing.seconds[ours]),
        dropped=timing.dropped,
        noisy=timing.noisy,
        memory_bar=case.memory_bar,
        floor=floor,
        against=against,
        goals=goals,
    )


def is_theirs(provider: str) -> bool:
    return not is_ours(provider) and base_of(provider) != COPY


def is_passed(speedup: float, bar: float, slower_by_s: float) -> bool:
    """Whether a bar is reached; one that only asks "never slower" also where the difference is within 50 us."""
    return speedup >= bar or (bar <= 1 and slower_by_s <= CLOSE_S)


# -- the environment -------------------------------------------------------------------------------------------------
def environment(device: torch.device) -> dict[str, object]:
    """Everything that a number depends on: hardware, threads, versions, commit, date."""
    facts = fastgan.info()
    commit, dirty = _commit()
    return {
        "device": device.type,
        "cpu": facts["cpu"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": facts["cpu_capability"] or facts["torch_cpu_capability"],
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "gpu_capability": list(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "gpu_state": _gpu_state(device) if device.type == "cuda" else None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark if device.type == "cuda" else None,
        "tf32": torch.backends.cudnn.allow_tf32 if device.type == "cuda" else None,
        "platform": facts["platform"],
        "python": facts["python"],
        "torch": facts["torch"],
        "torch_cpu_capability": facts["torch_cpu_capability"],
        "fastgan": facts["fastgan"],
        "commit": commit,
        "uncommitted_changes": dirty,
        "extension": facts["extension"],
        "build": facts["build"],
        "implementation": facts["implementation"],
        "variables": facts["environment"],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


GPU_STATE = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu",
    "pstate", "memory.total",
)  # fmt: skip


def _gpu_state(device: torch.device) -> dict[str, str] | None:
    """What nvidia-smi says of the driver and the clocks at this moment; None where it does not."""
    index = torch.cuda.current_device() if device.index is None else device.index
    uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"  # nvidia-smi counts without CUDA_VISIBLE_DEVICES
    found = _output("nvidia-smi", f"--id={uuid}", f"--query-gpu={','.join(GPU_STATE)}", "--format=csv,noheader")
    return dict(zip(GPU_STATE, found.split(", "), strict=True)) if found else None


def _output(*command: str) -> str | None:
    """What a command prints; None where it cannot run or fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _commit() -> tuple[str | None, bool | None]:
    """(commit, uncommitted changes or not) of the checkout that this package runs from.

    FASTGAN_COMMIT names it where the files came without their history. (None, None) elsewhere.
    """
    root = Path(fastgan.__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        return _output("git", "-C", str(root), *arguments)

    if git("rev-parse", "--show-toplevel") != str(root):
        return os.environ.get("FASTGAN_COMMIT"), None
    return git("rev-parse", "--short=10", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))


def machine(facts: dict[str, object]) -> str:
    """A folder name for like hardware: the GPU, or the CPU with its cores and capability."""
    name = facts["gpu"] or f"{facts['cpu']} {facts['cores']} cores {facts['cpu_capability']}"
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower().replace("(r)", "").replace("(tm)", "")).strip("-")


# -- files -----------------------------------------------------------------------------------------------------------
def result_file(out: str | Path, facts: dict[str, object]) -> Path:
    """``out`` itself if it ends in .json, else ``<out>/<machine>/<date>-<commit>.json``."""
    out = Path(out)
    if out.suffix == ".json":
        return out
    return out / machine(facts) / f"{str(facts['date'])[:10]}-{facts['commit'] or 'uncommitted'}.json"


def write(path: Path, facts: dict[str, object], rows: list[Row], left_out: dict[str, str] | None = None) -> None:
    """Write all rows; a reader sees the old file or the whole new one. left_out: providers that failed, and why."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    content = {"schema": SCHEMA, "environment": facts, "rows": [asdict(r) for r in rows], "left_out": left_out or {}}
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def read(path: str | Path) -> tuple[dict[str, object], list[Row]]:
    """(environment, rows) of a file written by ``write``.

    Raises:
        ValueError: the file is none of ours, or of another schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        schema = content["schema"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} is no file of benchmark results") from None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}; this fastgan reads {SCHEMA}: measure again")
    rows = []
    for fields in content["rows"]:
        fields["speedup"] = Spread(**fields["speedup"])
        fields["seconds"] = {provider: Spread(**spread) for provider, spread in fields["seconds"].items()}
        fields["floor"] = Floor(**fields["floor"]) if fields.get("floor") else None
        rows.append(Row(**fields))
    return content["environment"], rows


# -- words -----------------------------------------------------------------------------------------------------------
def header() -> str:
    return (
        f"{'row':<52} {'strongest PyTorch':<29} {'fastgan':<31} {'speed-up [quartiles]':<22} "
        f"{'memory':<8} {'bar':<5} verdict; what ran"
    )


def format_row(r: Row) -> str:
    """One line of the table."""
    memory = "-" if r.memory_ratio is None else f"{r.memory_ratio:.2f}x"
    verdict = "ok" if r.passed else "BELOW THE BAR"
    verdict += "" if r.memory_passed else ", TOO MUCH MEMORY"
    verdict += ", noisy" if r.noisy else ""
    verdict += "".join(f", MISSED: {goal}" for goal in r.missed)
    verdict += f", floor {_floor_in_words(r)}" if r.floor else ""
    spread = f"{r.speedup.median:.2f} [{r.speedup.low:.2f}, {r.speedup.high:.2f}]"
    name = f"{r.case} {r.mode}" if r.op == r.mode else f"{r.op} {r.case} {r.mode}"
    return (
        f"{name:<52} {_milliseconds(r, r.strongest):<29} {_milliseconds(r, r.ours):<31} {spread:<22} "
        f"{memory:<8} {r.bar:<5g} {verdict}; {r.implementation}"
    )


def _milliseconds(r: Row, provider: str) -> str:
    return f"{r.seconds[provider].median * 1e3:.4g} ms {provider}"


def _floor_in_words(r: Row) -> str:
    seconds = r.seconds[r.ours].median
    rates = [f"{r.floor.flops / seconds / 1e12:.3g} TFLOP/s"] if r.floor.flops else []
    rates.append(f"{r.floor.bytes / seconds / 1e12:.3g} TB/s")
    reached = f"{r.floor.seconds / seconds:.0%} of it reached: {', '.join(rates)}"
    return f"{r.floor.seconds * 1e3:.3g} ms ({r.floor.bound_by}), {reached}"


def table(paths: Sequence[str | Path]) -> str:
    """The rows of several result files of one GPU as a table in Markdown: times, floor, ratios beside their goals."""
    lines = []
    for path in paths:
        facts, rows = read(path)
        if not lines:
            lines = [f"{facts['gpu'] or facts['cpu']}, commit {facts['commit']}, torch {facts['torch']}", ""]
            lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [f"| {' | '.join(_cells(r))} |" for r in rows]
    return "\n".join(lines)


COLUMNS = ("row", "precision", "eager", "strongest PyTorch", "fastgan", "floor", "over eager", "over strongest")
COLUMNS += ("of a copy", "what ran")


def _cells(r: Row) -> list[str]:
    def ratio(name: str, form: str) -> str:
        if name not in (r.against or {}):
            return "-"
        goal = (r.goals or {}).get(name)
        return format(r.against[name], form) + (f" (goal {goal:{form}})" if goal else "")

    eager = _milliseconds(r, "eager") if "eager" in r.seconds else "-"
    return [
        f"{r.op} {r.case}, {r.mode}", r.dtype, eager, _milliseconds(r, r.strongest), _milliseconds(r, r.ours),
        _floor_in_words(r) if r.floor else "-", ratio("eager", ".2f"), ratio("strongest", ".2f"), ratio("copy", ".0%"),
        r.implementation,
    ]  # fmt: skip


# -- two files -------------------------------------------------------------------------------------------------------
def compare(old: str | Path, new: str | Path) -> list[str]:
    """One sentence for every row that got worse from file ``old`` to file ``new``.

    Slower: by more than 5%, by more than 50 us, and by more than the quartiles of either run spread. Larger: by more
    than 5% of peak memory. Rows that only one file has are not compared.

    Raises:
        ValueError: the files come from unlike hardware, naming what differs.
    """
    (old_facts, old_rows), (new_facts, new_rows) = read(old), read(new)
    unlike = [f"{k} {old_facts.get(k)} and {new_facts.get(k)}" for k in LIKE if old_facts.get(k) != new_facts.get(k)]
    if unlike:
        raise ValueError(f"{old} and {new} come from unlike hardware: {'; '.join(unlike)}")
    before = {r.key: r for r in old_rows}
    pairs = [(before[r.key], r) for r in new_rows if r.key in before]
    if not pairs:
        raise ValueError(f"{old} and {new} have no row in common")
    return [sentence for a, b in pairs for sentence in _worse(a, b)]


def _worse(old: Row, new: Row) -> list[str]:
    found = []
    a, b = old.seconds[old.ours], new.seconds[new.ours]
    noise = max(a.high - a.low, b.high - b.low, CLOSE_S)
    if b.median > a.median * WORSE and b.median - a.median > noise:
        found.append(f"{new.key}: {a.median * 1e3:.4g} ms became {b.median * 1e3:.4g} ms")
    if old.peak_memory and new.peak_memory:
        m, n = old.peak_memory[old.ours], new.peak_memory[new.ours]
        if n > m * WORSE:
            found.append(f"{new.key}: peak memory {m / 2**20:.1f} MiB became {n / 2**20:.1f} MiB")
    return found
