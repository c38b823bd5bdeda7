"""`fastgan bench`: kernels and whole training steps against the strongest PyTorch on this machine."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int | None:
    from fastgan.bench.__main__ import main

    return main(argv)
