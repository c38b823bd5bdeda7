"""What a Config is made of: ``option`` declares one field, ``check_options`` holds every field to its declaration.

Not an architecture: the registry skips modules whose name starts with an underscore.
"""

from __future__ import annotations

import math
import types
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["check_options", "option"]

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", type(None): "None"}


def option(default: Any, help: str, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """Declare a field of a ``Config``: its default, its one line of help, and the closed range of a number.

    Same as ``dataclasses.field(default=..., metadata={"help": ..., "minimum": ..., "maximum": ...})``.
    """
    return field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum})


def check_options(config: Any) -> None:
    """Hold each field of a dataclass to its annotation and to the range declared by ``option``.

    Whole numbers become floats where a float is declared, and lists become tuples (JSON knows no tuples).

    Raises
    ------
    TypeError
        A value of another type than declared.
    ValueError
        A value out of its range, not finite, or not among the words of a ``Literal``.
    """
    hints = get_type_hints(type(config))
    for f in fields(config):
        value = _convert(f.name, getattr(config, f.name), hints[f.name])
        object.__setattr__(config, f.name, value)  # the dataclass is frozen; this is its own __post_init__
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _check_range(f.name, value, f.metadata.get("minimum"), f.metadata.get("maximum"))


def _convert(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotation ``hint`` wants it, or one sentence why not."""
    origin = get_origin(hint)
    if origin is Literal:
        if not any(value == word and type(value) is type(word) for word in get_args(hint)):
            raise ValueError(f"{name} takes {_describe(hint)}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        # None before the rest: `float | None` given 1 must still become 1.0
        alternatives = sorted(get_args(hint), key=lambda t: t is not type(None))
        for alternative in alternatives:
            try:
                return _convert(name, value, alternative)
            except (TypeError, ValueError):
                continue
    elif origin is tuple and isinstance(value, (tuple, list)):
        item_hints = get_args(hint)
        if item_hints[-1] is Ellipsis:
            item_hints = item_hints[:1] * len(value)
        if len(value) == len(item_hints):
            return tuple(
                _convert(f"{name}[{i}]", item, h) for i, (item, h) in enumerate(zip(value, item_hints, strict=True))
            )
    elif hint is bool or hint is str or hint is type(None):
        if isinstance(value, hint):
            return value
    elif hint is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    elif hint is float and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    elif origin is None and hint not in _WORDS and isinstance(value, hint):
        return value
    raise TypeError(f"{name} takes {_describe(hint)}, got {value!r} ({type(value).__name__})")


def _check_range(name: str, value: float, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and maximum is not None:
        expected = f"a number from {minimum} to {maximum}"
    elif minimum is not None:
        expected = f"a number of at least {minimum}"
    elif maximum is not None:
        expected = f"a number of at most {maximum}"
    else:
        expected = "a finite number"
    too_small = minimum is not None and value < minimum
    too_large = maximum is not None and value > maximum
    if too_small or too_large or not math.isfinite(value):
        raise ValueError(f"{name} takes {expected}, got {value!r}")


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(repr(word) for word in get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(t) for t in get_args(hint))
    if origin is tuple:
        item_hints = get_args(hint)
        if item_hints[-1] is Ellipsis:
            return f"a list, each item {_describe(item_hints[0])}"
        return "(" + ", ".join(_describe(t) for t in item_hints) + ")"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
