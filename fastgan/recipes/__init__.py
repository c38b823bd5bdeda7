"""Recipes: one file a system, with the preset it trains, what it measures, and the bar it has to reach.

A recipe is a module with ``RECIPE``, a ``Recipe``; its docstring says what is reproduced, what the paper reports and
what is different here. ``fastgan reproduce`` runs one over its seeds and appends a row to the table (``_book.py``);
``_run.py`` has the training they share, ``_judge.py`` the classifiers that judge samples.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from fastgan._words import did_you_mean

__all__ = ["Above", "AtLeast", "AtMost", "Below", "Check", "Recipe", "get", "names"]

Measured = Mapping[str, float]  # what one seed's run found, by name


@dataclass(frozen=True)
class Check:
    """One demand of a bar, on the runs of all seeds."""

    value: str  # name of the measured value

    @property
    def names(self) -> tuple[str, ...]:
        """The measured values that are looked at."""
        return (self.value,)

    def holds(self, runs: Sequence[Measured]) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class AtMost(Check):
    """``value`` is ``bound`` or less in every seed."""

    bound: float

    def __str__(self) -> str:
        return f"{self.value} at most {self.bound:g}"

    def holds(self, runs: Sequence[Measured]) -> bool:
        return all(run[self.value] <= self.bound for run in runs)


@dataclass(frozen=True)
class AtLeast(Check):
    """``value`` is ``bound`` or more in every seed."""

    bound: float

    def __str__(self) -> str:
        return f"{self.value} at least {self.bound:g}"

    def holds(self, runs: Sequence[Measured]) -> bool:
        return all(run[self.value] >= self.bound for run in runs)


@dataclass(frozen=True)
class Below(Check):
    """``value`` is less than ``than``: in every seed, and on average by more than two standard errors."""

    than: str

    def __str__(self) -> str:
        return f"{self.value} below {self.than}"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.value, self.than)

    def holds(self, runs: Sequence[Measured]) -> bool:
        return _clearly_positive([run[self.than] - run[self.value] for run in runs])


@dataclass(frozen=True)
class Above(Below):
    """``value`` is more than ``than``: in every seed, and on average by more than two standard errors."""

    def __str__(self) -> str:
        return f"{self.value} above {self.than}"

    def holds(self, runs: Sequence[Measured]) -> bool:
        return _clearly_positive([run[self.value] - run[self.than] for run in runs])


def _clearly_positive(differences: Sequence[float]) -> bool:
    """Every difference is positive, and their mean is more than two standard errors from 0."""
    n = len(differences)
    mean = sum(differences) / n
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return min(differences) > 0 and mean > 2 * error


@dataclass(frozen=True)
class Recipe:
    """What is trained and measured, and the bar.

    Raises:
        ValueError: no check, no seed, or a comparison over fewer than three seeds.
    """

    system: str  # as its paper calls it
    data: str  # what it trains on, in a few words
    paper: str  # what the paper reports for the nearest thing, or "none"
    checks: tuple[Check, ...]  # the bar: all of them hold
    measure: Callable[[Path, int], Measured]  # measure(out, seed): trains in the folder; leaves picture.png there
    seeds: tuple[int, ...] = (0, 1, 2)
    tried: str = ""  # where the bar is missed: what was tried, in a sentence or two

    def __post_init__(self) -> None:
        if not self.checks or not self.seeds:
            raise ValueError(f"the recipe of {self.system} takes at least one check and one seed")
        if len(self.seeds) < 3 and any(isinstance(check, Below) for check in self.checks):
            raise ValueError(f"the recipe of {self.system} compares two values, which takes three seeds or more")

    def check_names(self, measured: Measured) -> None:
        """Raise ``KeyError`` where ``measured`` lacks what the bar looks at."""
        wanted = {name for check in self.checks for name in check.names}
        if missing := wanted - set(measured):
            raise KeyError(f"the recipe of {self.system} measured no {sorted(missing)[0]!r}, only {sorted(measured)}")


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str) -> ModuleType:
    """The recipe's module, which has ``RECIPE``; an unknown name raises ValueError with the nearest."""
    key = name.replace("-", "_")
    if key not in names():
        raise ValueError(f"there is no recipe {name!r}{did_you_mean(key, names())} (known: {', '.join(names())})")
    return import_module(f"fastgan.recipes.{key}")
