"""Learning rates over the steps, for ``Phase.schedule``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

__all__ = ["linear_decay"]


def linear_decay(lr: float, steps: int | None) -> Callable[[int], dict[str, float]] | None:
    """From ``lr`` to 0 over ``steps``, 0 from there on; None, a rate that stays, where ``steps`` is None."""
    return None if steps is None else partial(_linear, lr, steps)


def _linear(lr: float, steps: int, step: int) -> dict[str, float]:
    return {"lr": lr * max(1 - step / steps, 0.0)}
