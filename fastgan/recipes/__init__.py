"""Recipes: one file a system, with its preset, what is measured, and the bar it has to reach."""

from __future__ import annotations

import difflib
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

__all__ = ["Result", "get", "names"]


@dataclass(frozen=True)
class Result:
    """What a recipe's ``run(out, seed)`` returns."""

    measured: dict[str, float]
    bar: str  # one sentence
    passed: bool


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> ModuleType:
    """The recipe's module, which has ``run(out: Path, seed: int) -> Result``."""
    key = name.replace("-", "_")
    if key not in names():
        near = difflib.get_close_matches(key, names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no recipe {name!r}{hint} (known: {', '.join(names())})")
    return import_module(f"fastgan.recipes.{key}")
