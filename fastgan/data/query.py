"""What may follow the name of a data set: ``scenes?label=color&vary=shape,x``, the query of a URL.

label=FACTOR     scenes: which factor is the label
vary=NAMES       scenes: factors and continuous values that vary, with commas between; all others stay as they are
labels=COUNT     whatever has classes: only so many images keep their label
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastgan._words import did_you_mean

__all__ = ["read_query"]


def read_query(name: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    """The values in ``query`` (what follows the question mark) by key, each of them one of ``known``.

    Raises:
        ValueError: not ``key=value&key=value``, a key that ``name`` does not take, or one that comes twice.
    """
    takes = f"takes {', '.join(f'{key}=' for key in known)}" if known else "takes nothing after a question mark"
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError(f"data {name}?{query} is not of the form {name}?key=value&key=value; {name} {takes}") from None
    found: dict[str, str] = {}
    for key, value in pairs:
        if key not in known:
            raise ValueError(f"data {name} {takes}, got {key!r}{did_you_mean(key, known)}")
        if key in found:
            raise ValueError(f"data {name}?{query} gives {key!r} twice")
        found[key] = value
    return found
