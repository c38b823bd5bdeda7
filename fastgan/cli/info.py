"""`fastgan info`: what this installation can do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from fastgan._info import convolutions, describe, info


@dataclass
class InfoOptions:
    """Versions, hardware, what was built, which kernels exist here and why others do not."""

    json: bool = False
    """print JSON instead of aligned lines"""
    convolutions: bool = False
    """print what timed trials chose for convolutions on CUDA devices, with every candidate's time, and nothing else"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(InfoOptions, args=argv, prog="fastgan info")
    if options.convolutions:
        print(convolutions())
        return
    facts = info()
    print(json.dumps(facts, indent=2) if options.json else describe(facts))
