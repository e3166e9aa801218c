"""Runs as lines of text: how far each is, and its curves as sparklines."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

from latentc.measure.tables import aligned
from latentc.runs.found import Curve, TrainingRun, on_a_log_scale, shown_curves

BARS, PLAIN = "▁▂▃▄▅▆▇█", "_.-~=+*#"
WIDTH = 40  # characters of a sparkline


def text_of(runs: Sequence[TrainingRun], wanted: Sequence[str] = (), bars: str = BARS, now: float | None = None) -> str:
    """All runs; `wanted`: patterns of curves. DiagnosticError E0719 if a pattern matches none."""
    names, now = shown_curves(runs, wanted), time.time() if now is None else now
    blocks = []
    for run in runs:
        head = f"{run.name}: {run.state}, {ago(now - run.changed)}"
        rows = [
            ["", name, sparkline(run.curves[name], bars), *_figures(run.curves[name])]
            for name in names
            if name in run.curves
        ]
        note = [f"  {run.note}"] if run.note else []
        blocks.append("\n".join([head, *(aligned(rows, 3) if rows else note)]) + "\n")
    return "\n".join(blocks)


def sparkline(curve: Curve, bars: str = BARS) -> str:
    """A curve as at most WIDTH bars, each the mean of its part of the steps; on a log scale if it spans much.

    `!`: no value there is finite.
    """
    scaled = math.log10 if on_a_log_scale([y for _, y in curve]) else float
    means = [
        sum(part) / len(part) if (part := [scaled(y) for y in values if math.isfinite(y)]) else math.nan
        for values in parts(curve, WIDTH)
    ]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    unit = (high - low) / (len(bars) - 1) or 1.0
    return "".join(bars[round((mean - low) / unit)] if math.isfinite(mean) else "!" for mean in means)


def parts(curve: Curve, most: int) -> list[list[float]]:
    """The values of a curve in at most `most` equal parts, in order."""
    count = min(most, len(curve))
    ends = [len(curve) * i // count for i in range(count + 1)]
    return [[y for _, y in curve[start:end]] for start, end in itertools.pairwise(ends)]


def _figures(curve: Curve) -> tuple[str, str]:
    """The last value of a curve, and the ends of its range."""
    known = [y for _, y in curve if math.isfinite(y)]
    return f"{curve[-1][1]:.4g}", f"({min(known):.4g} to {max(known):.4g})" if known else ""


def ago(seconds: float) -> str:
    """A time that has passed, in its largest unit."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
