"""`fastgan list`: every architecture with the first line of its file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from fastgan import registry


@dataclass
class ListOptions:
    """List the architectures that can be trained by name."""


def run(argv: Sequence[str]) -> None:
    tyro.cli(ListOptions, args=argv, prog="fastgan list")
    names = registry.list_architectures()
    width = max(map(len, names))
    for name in names:
        cls = registry.get(name)
        print(f"{name:<{width}}  {summary(cls)}")
        if cls.presets:
            print(f"{'':<{width}}  presets: {', '.join(cls.presets)}")


def summary(cls: type) -> str:
    """The paper, as the first line of the architecture's file has it."""
    text = (sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip()
    return text.split("\n")[0]
