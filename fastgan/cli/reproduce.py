"""`fastgan reproduce NAME`: run a recipe: train, measure, compare with its bar, add a row to the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan import recipes
from fastgan.recipes import _book


@dataclass
class ReproduceOptions:
    """Run recipes: train with their presets, measure, compare with the bar. Exit status 1 if a bar is missed."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """recipes, or all; none: list them"""
    out: Path = Path("runs/reproduce")
    """folder of their runs: OUT/NAME/seed-N, emptied first"""
    book: Path | None = None
    """folder of the table: rows, pictures and REPRODUCTION.md; none: OUT"""
    seed: int | None = None
    """try this seed alone, and add no row"""
    page: bool = False
    """run nothing: write REPRODUCTION.md again from the rows in BOOK"""


def run(argv: Sequence[str]) -> int:
    options = tyro.cli(ReproduceOptions, args=argv, prog="fastgan reproduce")
    book = options.book or options.out
    if options.page:
        print(_book.write_page(book))
        return 0
    if not options.names:
        for name in recipes.names():
            print(f"{name:<20} {recipes.get(name).__doc__.strip().splitlines()[0]}")
        return 0
    names = recipes.names() if "all" in options.names else [_known(name) for name in options.names]
    if options.seed is not None:
        for name in names:
            _try(name, options.out, options.seed)
        return 0
    passed = True
    for name in names:
        row = _book.reproduce(name, options.out)
        _book.append(row, book, options.out)
        for sentence, held in row["bar"].items():
            print(f"{name}: {'reached' if held else 'MISSED'}: {sentence}", flush=True)
        passed = passed and row["passed"]
    print(f"table in {book / 'REPRODUCTION.md'}, runs in {options.out}")
    return 0 if passed else 1


def _known(name: str) -> str:
    return recipes.get(name).__name__.rpartition(".")[2]


def _try(name: str, out: Path, seed: int) -> None:
    folder = out / name / f"seed-{seed}"
    measured, minutes = _book.measure(recipes.get(name).RECIPE, folder, seed)
    for value, number in measured.items():
        print(f"{value}: {number:.4g}")
    print(f"{minutes:.1f} minutes, files in {folder}")
