"""Plots the figure that ranks trials: a panel per setting, with the best trial of each of its values."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from latentc.measure.plots import CHOSEN, FRONT, INK, logarithmic, panels, write_figure
from latentc.sweep.axes import Axis
from latentc.sweep.report import Row, Swept, ranking

PANELS = 4  # largest number of settings drawn
WIDE = 8  # ratio of the largest to the smallest number from which an axis is logarithmic


def write_plot(swept: Swept, folder: Path) -> None:
    """Writes `sweep.svg` and `sweep.png` into the folder."""
    write_figure(lambda: drawn(swept), folder / "sweep")


def drawn(swept: Swept) -> Any:
    """The figure: panels side by side above one legend."""
    axes = swept.axes[:PANELS]
    title = f"{swept.name}: {swept.metric} ({swept.better} is better) of {len(swept.rows)} trials"
    return panels(len(axes), lambda area, i: _panel(area, swept, axes[i]), title)


def _panel(area: Any, swept: Swept, axis: Axis) -> None:
    done = [(row, value) for row in swept.rows if (value := ranking(row.outcome, swept.metric)) is not None]
    lost = [row for row in swept.rows if ranking(row.outcome, swept.metric) is None]
    # Listed values stand side by side, numbers in their order; those from a range stand where they are.
    order = sorted(axis.values, key=_number) if all(_number(text) < math.inf for text in axis.values) else axis.values

    def x(row: Row) -> float:
        text = row.chosen[axis.path]
        return float(order.index(text)) if axis.values else _number(text)

    points = [(x(row), value) for row, value in done]
    if points:
        area.scatter(*zip(*points, strict=True), s=22, color=INK, alpha=0.55, linewidths=0, label="trial")
    best: dict[float, float] = {}
    for place, value in reversed(points):  # the rows are ranked, so the best comes last
        best[place] = value
    if axis.values and best:
        ends = sorted(best.items())
        area.plot(*zip(*ends, strict=True), "o-", color=FRONT, ms=5, lw=1.2, label="best of the value")
    if swept.best is not None:
        area.plot(*points[0], "o", ms=13, mfc="none", mec=CHOSEN, mew=1.8, label="best")
    if lost:  # at the upper edge, whatever the scale
        edge = area.get_xaxis_transform()
        marks = [x(row) for row in lost]
        area.plot(marks, [0.98] * len(lost), "x", color=CHOSEN, ms=6, transform=edge, label="no figure (see the table)")
    if axis.values:
        area.set_xticks(range(len(order)), order)
        area.margins(x=0.2)
    else:
        _scaled(area.set_xscale, area.xaxis, [x(row) for row in swept.rows])
    _scaled(area.set_yscale, area.yaxis, [value for _, value in points])
    area.set_xlabel(axis.path)
    area.set_ylabel(swept.metric)


def _scaled(set_scale: Any, axis: Any, values: list[float]) -> None:
    if values and min(values) > 0 and max(values) > WIDE * min(values):
        logarithmic(set_scale, axis)


def _number(text: str) -> float:
    """The number that a value says; infinity if it says none."""
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) else math.inf
