"""Line charts as coordinates for SVG in a page, so that it needs no script and follows light and dark."""

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
    """A named line: the path of SVG, its points and the number of its colour."""

    name: str
    path: str
    marks: tuple[Mark, ...]
    colour: int


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


def chart(
    title: str,
    axis: str,
    lines: Mapping[str, Points],
    texts: Sequence[str] = (),
    colours: Mapping[str, int] | None = None,
    marked: bool = True,
    log: bool = False,
) -> Chart:
    """A chart of lines of finite points (x, y); `texts` stand beside the points of the first.

    `colours` by line, by default in order; `marked`: points are shown; `log`: the scale of y is logarithmic.
    """
    if log:
        lines = {name: [(x, math.log10(y)) for x, y in points] for name, points in lines.items()}
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), (log_ticks if log else ticks)(min(ys), max(ys))
    x_low, x_high = min(x_ticks[0], min(xs)), max(x_ticks[-1], max(xs))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM), 1)

    def value(y: float) -> float:
        return 10**y if log else y

    made = []
    for number, (name, points) in enumerate(lines.items()):
        marks = tuple(
            Mark(across(x), up(y), f"{name} {value(y):.4g} at {axis} {x:g}", texts[i] if i < len(texts) else "")
            for i, (x, y) in enumerate(points)
        )
        path = "M" + " L".join(f"{mark.x:g} {mark.y:g}" for mark in marks)
        colour = number if colours is None else colours[name]
        made.append(Line(name, path, marks if marked else (), colour))
    return Chart(
        title,
        axis,
        tuple(made),
        tuple((across(x), _short(x)) for x in x_ticks),
        tuple((up(y), _short(value(y))) for y in y_ticks),
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about so many."""
    span = high - low or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - about))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Logarithms of 1, 2 and 5 times powers of ten, or of powers alone, from at most `low` to at least `high`."""
    digits = (1, 2, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [math.log10(digit) + power for power in powers for digit in digits]
    first = max((tick for tick in found if tick <= low + 1e-9), default=found[0])
    last = min((tick for tick in found if tick >= high - 1e-9), default=found[-1])
    return [tick for tick in found if first <= tick <= last]


def _short(number: float) -> str:
    """A number on an axis, such as 0.5, 2000 or 400k."""
    return f"{number / 1000:g}k" if number >= 10_000 and float(number).is_integer() else f"{number:.6g}"
