"""The table of what is reproduced: rows that runs append, pictures, and the page made of them.

BOOK/reproduction/NAME.jsonl   one row a run of the recipe NAME, the oldest first; none is ever changed
BOOK/reproduction/NAME.png     the first seed's picture of the newest run
BOOK/REPRODUCTION.md           the page, written from the rows alone
"""

from __future__ import annotations

import inspect
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from fastgan import recipes
from fastgan.bench.report import environment
from fastgan.recipes import Recipe
from fastgan.training.checkpoint import write_atomically

__all__ = ["append", "read", "reproduce", "write_page"]

Row = dict[str, Any]

INTRODUCTION = """\
# What is reproduced

Every system trained from nothing by `fastgan reproduce NAME`, measured, and held to a bar. This page is written from
the rows that those runs append ([reproduction](reproduction)); no number in it is typed by hand. The bars are this
project's own, set for minutes on two CPU cores; where a paper's figure stands beside, data, size and network are those
of the paper, and the numbers do not compare directly. A comparison ("below", "above") holds in every seed and by more
than two standard errors of the mean difference. Feature distances name their feature net and compare within one row
only. Where there are several seeds, numbers are mean ± standard deviation over them.
"""


def reproduce(name: str, out: Path, *, say: Callable[[str], None] = print) -> Row:
    """Run recipe ``name`` over its seeds in ``out/NAME/seed-N`` from nothing, and judge it: the row, written nowhere.

    Raises:
        ValueError: there is no such recipe.
        KeyError: it did not measure what its bar looks at.
    """
    module = recipes.get(name)
    recipe: Recipe = module.RECIPE
    name = module.__name__.rpartition(".")[2]
    facts = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    runs: list[Mapping[str, float]] = []
    minutes: list[float] = []
    for seed in recipe.seeds:
        measured, spent = measure(recipe, out / name / f"seed-{seed}", seed)
        runs.append(measured)
        minutes.append(spent)
        say(f"{name} seed {seed}, {spent:.1f} minutes: {in_words(measured)}")
    verdicts = {str(check): check.holds(runs) for check in recipe.checks}
    return {
        "recipe": name,
        "system": recipe.system,
        "data": recipe.data,
        "paper": recipe.paper,
        "bar": verdicts,
        "passed": all(verdicts.values()),
        "names": list(dict.fromkeys(name for check in recipe.checks for name in check.names)),
        "seeds": list(recipe.seeds),
        "measured": [{key: _plain(value) for key, value in run.items()} for run in runs],
        "minutes": [round(spent, 2) for spent in minutes],
        "machine": facts["gpu"] or facts["cpu"],
        "threads": facts["threads"],
        "implementation": _implementation(facts),
        "torch": facts["torch"],
        "commit": facts["commit"],
        "uncommitted_changes": facts["uncommitted_changes"],
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def measure(recipe: Recipe, folder: Path, seed: int) -> tuple[Mapping[str, float], float]:
    """One seed's run in an empty ``folder``: what it measured, and its minutes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    measured = recipe.measure(folder, seed)
    recipe.check_names(measured)
    return measured, (time.perf_counter() - started) / 60


def in_words(measured: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in measured.items())


def append(row: Row, book: Path, out: Path) -> None:
    """Add ``row`` to the book, with the first seed's picture from ``out``, and write the page anew."""
    folder = book / "reproduction"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{row['recipe']}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    picture = out / row["recipe"] / f"seed-{row['seeds'][0]}" / "picture.png"
    if picture.exists():
        shutil.copyfile(picture, folder / f"{row['recipe']}.png")
    write_page(book)


def read(book: Path) -> dict[str, list[Row]]:
    """The rows of every recipe that has any, in order of names, each oldest first."""
    rows = {}
    for file in sorted((book / "reproduction").glob("*.jsonl")):
        rows[file.stem] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    return rows


def write_page(book: Path) -> Path:
    """Write REPRODUCTION.md from the rows; returns its path."""
    page = book / "REPRODUCTION.md"
    write_atomically(page, lambda temporary: temporary.write_text(render(read(book), book), encoding="utf-8"))
    return page


# -- the page ----------------------------------------------------------------------------------------------------------


def render(rows: Mapping[str, list[Row]], book: Path) -> str:
    """The page as Markdown: a table of every recipe's newest row, then a section for each."""
    newest = [runs[-1] for runs in rows.values()]
    reached = sum(row["passed"] for row in newest)
    lines = [
        INTRODUCTION,
        f"{reached} of {len(newest)} bars are reached.",
        "",
        "| system | data | bar | the paper's figure | ours | seeds | minutes | machine | reached |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_table_line(row) for row in newest),
        "",
    ]
    for name, runs in rows.items():
        lines += _section(name, runs, book)
    return "\n".join(lines)


def _table_line(row: Row) -> str:
    ours = "; ".join(f"{name} {_over_seeds(row, name)}" for name in row["names"])
    cells = [
        f"[{row['system']}](#{row['recipe']})",
        row["data"],
        "; ".join(row["bar"]),
        row["paper"],
        ours,
        str(len(row["seeds"])),
        f"{sum(row['minutes']):.1f}",
        _machine(row),
        "yes" if row["passed"] else "**no**",
    ]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _section(name: str, runs: list[Row], book: Path) -> list[str]:
    row = runs[-1]
    about, tried = "", ""
    if name in recipes.names():
        module = recipes.get(name)
        about, tried = inspect.cleandoc(module.__doc__), module.RECIPE.tried
    lines = [f"## {name}", "", about, ""]
    if (book / "reproduction" / f"{name}.png").exists():
        lines += [f"![{row['system']} on {row['data']}](reproduction/{name}.png)", ""]
    for sentence, held in row["bar"].items():
        lines.append(f"* {'reached' if held else '**missed**'}: {sentence}")
    if tried and not row["passed"]:
        lines += ["", f"Tried: {tried}"]
    lines += ["", _line(["measured", *(f"seed {seed}" for seed in row["seeds"])])]
    lines.append("|---" * (1 + len(row["seeds"])) + "|")
    for value in row["measured"][0]:
        lines.append(_line([value, *(_number(run.get(value)) for run in row["measured"])]))
    changed = ", with changes not committed" if row["uncommitted_changes"] else ""
    lines += [
        "",
        f"`fastgan reproduce {name}`, {row['date']}, commit {row['commit']}{changed}, {_machine(row)}, "
        f"{row['implementation']}, torch {row['torch']}.",
        "",
    ]
    if runs[:-1]:
        lines += ["Earlier runs:", ""]
        for old in reversed(runs[:-1]):
            found = "; ".join(f"{value} {_over_seeds(old, value)}" for value in old["names"])
            lines.append(
                f"* {old['date']}, commit {old['commit']}: {'reached' if old['passed'] else 'missed'}, {found}"
            )
        lines.append("")
    return lines


def _over_seeds(row: Row, name: str) -> str:
    """Mean and standard deviation, or the one number."""
    values = [math.nan if run[name] is None else run[name] for run in row["measured"]]
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(statistics.fmean(values))} ± {_number(statistics.stdev(values))}"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}"


def _machine(row: Row) -> str:
    return f"{row['machine']}, {row['threads']} thread{'s' * (row['threads'] != 1)}"


def _implementation(facts: Mapping[str, Any]) -> str:
    """What ran: kernels or the reference."""
    return "kernels" if facts["extension"] == "loaded" and facts["implementation"] != "reference" else "reference"


def _plain(value: float) -> float | None:
    """A number as JSON has it, which knows no NaN and no infinity."""
    value = float(value)
    return value if math.isfinite(value) else None
