"""Line charts as coordinates for SVG in the page, so that it needs no script and follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 304, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 12, 36
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A point at (x, y), what it says when it is pointed at, and a text beside it."""

    x: float
    y: float
    title: str
    text: str


@dataclass(frozen=True)
class Line:
    """A named line: the path of SVG and its points."""

    name: str
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """A chart of lines over one axis; ticks are (place, text)."""

    title: str
    axis: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM
    top: int = TOP


def chart(title: str, axis: str, lines: Mapping[str, Points], texts: Sequence[str] = ()) -> Chart:
    """A chart of lines of points (x, y); `texts` stand beside the points of the first."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(x_ticks[0], min(xs)), max(x_ticks[-1], max(xs))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM), 1)

    made = []
    for name, points in lines.items():
        marks = tuple(
            Mark(across(x), up(y), f"{name} {y:.4g} at {axis} {x:g}", texts[i] if i < len(texts) else "")
            for i, (x, y) in enumerate(points)
        )
        path = "M" + " L".join(f"{mark.x:g} {mark.y:g}" for mark in marks)
        made.append(Line(name, path, marks))
    return Chart(
        title,
        axis,
        tuple(made),
        tuple((across(x), f"{x:g}") for x in x_ticks),
        tuple((up(y), f"{y:g}") for y in y_ticks),
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about so many."""
    span = high - low or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - about))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
