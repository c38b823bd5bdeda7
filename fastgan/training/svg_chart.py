"""A line chart as inline SVG, in the colours of the page around it (classes axis, grid, band and line0 to line5).

Written by hand rather than by matplotlib: a chart is a few lines of text that follow the page's light or dark colours,
stay sharp on any screen and need nothing installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from fastgan.training.progress_plot import Curve

__all__ = ["COLOURS", "line_chart"]

COLOURS = 6  # after so many lines the colours begin anew
WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 18, 24
MOST_POINTS = 400  # of a line; more are drawn by the extremes of neighbours
MARKED = 40  # up to so many points are marked, with their values as tooltips
LOG_FROM = 30.0  # a ratio of largest and smallest value from which on the axis is logarithmic


def line_chart(lines: Mapping[str, Curve], deviations: Mapping[str, Mapping[int, float]] | None = None) -> str:
    """An <svg> of curves over common steps.

    Args:
        lines: {label: [(step, value), ...]}, none empty, values finite.
        deviations: {label: {step: deviation}}, drawn as a band around that line.
    """
    deviations = deviations or {}
    bands = {label: _band(curve, deviations[label]) for label, curve in lines.items() if label in deviations}
    steps = [step for curve in lines.values() for step, _ in curve]
    values = [value for curve in (*lines.values(), *bands.values()) for _, value in curve]
    log = min(values) > 0 and max(values) / min(values) >= LOG_FROM
    x = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT, log=False)
    y = _scale(min(values), max(values), HEIGHT - BOTTOM, TOP, log=log)
    ticks = _log_ticks(min(values), max(values)) if log else _ticks(*_widened(min(values), max(values)), 5)
    parts = [_horizontal(y(value), f"{value:.4g}") for value in ticks]
    parts += [
        _vertical(x(step), _short(step)) for step in _ticks(*_widened(min(steps), max(steps)), 6) if x(step) > LEFT + 12
    ]
    for i, (label, curve) in enumerate(lines.items()):
        if label in bands:
            parts.append(f'<polygon class="band line{i % COLOURS}" points="{_points(bands[label], x, y)}"/>')
        parts.append(f'<polyline class="line{i % COLOURS}" points="{_points(_thinned(curve), x, y)}"/>')
        if len(curve) <= MARKED:
            parts += [_mark(i, label, step, value, x(step), y(value)) for step, value in curve]
    names = escape(", ".join(lines))
    scale = f'<text class="axis" x="{WIDTH - RIGHT}" y="{TOP - 6}" text-anchor="end">logarithmic</text>' if log else ""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{names} over steps">{"".join(parts)}{scale}'
        f'<text class="axis" x="{LEFT - 5}" y="{HEIGHT - 6}" text-anchor="end">step</text></svg>'
    )


def _band(curve: Curve, deviation: Mapping[int, float]) -> Curve:
    """The outline of curve ± deviation: above it forwards, below it backwards."""
    known = [(step, value, deviation[step]) for step, value in curve if step in deviation]
    return [(s, v + d) for s, v, d in known] + [(s, v - d) for s, v, d in reversed(known)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def _scale(low: float, high: float, start: float, end: float, *, log: bool) -> Callable[[float], float]:
    transform = math.log10 if log else float
    low, high = _widened(transform(low), transform(high))
    return lambda value: start + (transform(value) - low) / (high - low) * (end - start)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many round numbers (1, 2 or 5 times a power of ten apart) within the range."""
    for exponent in range(math.floor(math.log10((high - low) / most)), 400):
        for factor in (1, 2, 5):
            apart = factor * 10.0**exponent
            first, last = math.ceil(low / apart), math.floor(high / apart)
            if last - first < most:
                return [i * apart for i in range(first, last + 1)]
    return []


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 3 else (1,)
    return [f * 10.0**e for e in decades for f in factors if low <= f * 10.0**e <= high]


def _thinned(curve: Curve) -> Curve:
    """At most about ``MOST_POINTS``: of neighbours the lowest and the highest, so that no peak is lost."""
    size = math.ceil(2 * len(curve) / MOST_POINTS)
    if len(curve) <= MOST_POINTS:
        return curve
    groups: Iterable[Sequence[tuple[int, float]]] = (curve[i : i + size] for i in range(0, len(curve), size))
    value = lambda point: point[1]  # noqa: E731
    return [point for group in groups for point in sorted((min(group, key=value), max(group, key=value)))]


def _points(curve: Curve, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in curve)


def _mark(i: int, label: str, step: int, value: float, left: float, top: float) -> str:
    tip = escape(f"{label}: {value:.4g} at step {step}")
    return f'<circle class="line{i % COLOURS}" cx="{left:.1f}" cy="{top:.1f}" r="2.2"><title>{tip}</title></circle>'


def _horizontal(top: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>'
        f'<text class="axis" x="{LEFT - 5}" y="{top + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _vertical(left: float, label: str) -> str:
    return f'<text class="axis" x="{left:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>'


def _short(step: float) -> str:
    """A step in few letters: 500, 12k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if step >= 10 * size or (step >= size and letter == "M"):
            return f"{step / size:g}{letter}"
    return f"{step:g}"
