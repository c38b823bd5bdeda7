"""`fastgan reproduce NAME`: run a recipe: preset, measure, bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan import recipes


@dataclass
class ReproduceOptions:
    """Run a recipe: train with its preset, measure, and compare with its bar. Exit status 1 if the bar is missed."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """name of the recipe; none: list them"""
    out: Path | None = None
    """folder of its figures and measurements ; none: runs/recipe-NAME"""
    seed: int = 0
    """of the whole recipe"""


def run(argv: Sequence[str]) -> int:
    options = tyro.cli(ReproduceOptions, args=argv, prog="fastgan reproduce")
    if not options.name:
        for name in recipes.names():
            print(f"{name:<12} {recipes.get(name).__doc__.strip().splitlines()[0]}")
        return 0
    recipe = recipes.get(options.name)
    out = options.out or Path("runs") / f"recipe-{options.name}"
    result = recipe.run(out, options.seed)
    for name, value in result.measured.items():
        print(f"{name}: {value:.4g}")
    print(f"bar {'reached' if result.passed else 'MISSED'}: {result.bar}\nfiles in {out}")
    return 0 if result.passed else 1
