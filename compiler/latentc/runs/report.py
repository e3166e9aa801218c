"""Several runs on one HTML page that loads nothing: figures, settings that differ, curves, samples side by side."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from latentc.diagnostics import DiagnosticError
from latentc.evaluate.charts import Chart, chart
from latentc.evaluate.report import Cell
from latentc.files.named import write_text
from latentc.files.templates import rendered
from latentc.runs.found import Curve, TrainingRun, on_a_log_scale, shown_curves

COLOURS = 8  # of the page's style
MOST = 40  # runs on a page
POINTS, MARKED = 200, 30  # largest number of points of a line, and of one whose points are shown
WIDEST = 640  # pixels of a grid; wider ones are reduced
LINES = 12  # of a grid of texts
BETTER = {"evaluate/f*": "lower", "evaluate/precision": "higher", "evaluate/recall": "higher"}
UNCOMPARED = ("train.out", "train.resume", "train.workers")


@dataclass(frozen=True)
class Grid:
    """The samples of a step: a picture as a data URI, or a text. `smooth`: it has been reduced."""

    step: str
    title: str
    data: str
    text: str
    smooth: bool


def write_page(runs: Sequence[TrainingRun], file: Path, wanted: Sequence[str] = ()) -> None:
    """Writes the page; `wanted`: patterns of curves, by default all. DiagnosticError E0412, E0719."""
    if len(runs) > MOST:
        help = f"name at most {MOST} of them"
        raise DiagnosticError.of("E0719", f"a page compares at most {MOST} runs, not {len(runs)}", help=help)
    write_text(file, page_of(runs, wanted))


def page_of(runs: Sequence[TrainingRun], wanted: Sequence[str] = ()) -> str:
    """The whole page."""
    names = shown_curves(runs, wanted)
    further = (
        [] if wanted else [name for name in shown_curves(runs, ("*",) if _curves(runs) else ()) if name not in names]
    )
    cells = _cells(runs, names)
    facts = {
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} training runs",
        "names": names,
        "runs": [
            {"name": run.name, "state": run.state, "note": run.note, "colour": i % COLOURS, "cells": cells[i]}
            for i, run in enumerate(runs)
        ],
        "differences": differences(runs),
        "charts": [made for name in (*names, *further) if (made := _chart(runs, name)) is not None],
        "rows": _samples(runs),
    }
    return rendered("runs/report.html", facts)


def _curves(runs: Sequence[TrainingRun]) -> bool:
    return any(run.curves for run in runs)


def _cells(runs: Sequence[TrainingRun], names: Sequence[str]) -> list[list[Cell]]:
    """The last value of each curve, a row per run, with the best and the worst sample metrics marked."""
    columns = []
    for name in names:
        last = [run.curves[name][-1][1] if name in run.curves else math.nan for run in runs]
        known = [value for value in last if math.isfinite(value)]
        better = next((way for pattern, way in BETTER.items() if fnmatchcase(name, pattern)), None)
        ends = (min(known), max(known)) if known and better else (0.0, 0.0)
        best, worst = ends if better == "lower" else ends[::-1]
        differ = best != worst
        texts = [f"{value:.4g}" if name in run.curves else "" for run, value in zip(runs, last, strict=True)]
        columns.append([Cell(t, differ and v == best, differ and v == worst) for t, v in zip(texts, last, strict=True)])
    return [[column[i] for column in columns] for i in range(len(runs))]


def differences(runs: Sequence[TrainingRun]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) of the settings in which runs differ."""
    flat = [_flat(run.config) for run in runs]
    names = [name for name in dict.fromkeys(n for one in flat for n in one) if name not in UNCOMPARED]
    rows = [(name, [_shown(one[name]) if name in one else "–" for one in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{path: value} of nested settings."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _chart(runs: Sequence[TrainingRun], name: str) -> Chart | None:
    """The chart of a curve of all runs; None if it has no finite point."""
    lines = {run.name: points for run in runs if (points := _thinned(run.curves.get(name, [])))}
    if not lines:
        return None
    colours = {run.name: i % COLOURS for i, run in enumerate(runs)}
    marked = max(map(len, lines.values())) <= MARKED
    log = on_a_log_scale([y for points in lines.values() for _, y in points])
    return chart(name, "step", lines, colours=colours, marked=marked, log=log)


def _thinned(curve: Curve) -> list[tuple[float, float]]:
    """The finite points of a curve, at most POINTS of them: means over equal parts."""
    known = [(float(x), y) for x, y in curve if math.isfinite(y)]
    count = min(POINTS, len(known))
    ends = [len(known) * i // count for i in range(count + 1)] if count else [0]
    groups = [known[start:end] for start, end in itertools.pairwise(ends)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


# ---- samples


def _samples(runs: Sequence[TrainingRun]) -> list[list[Grid | None]]:
    """Rows of grids, a column per run: the last, the middle and the first grid of each."""
    columns = []
    for run in runs:
        steps = sorted(run.grids)[::-1]
        chosen = list(dict.fromkeys(steps[i] for i in (0, len(steps) // 2, len(steps) - 1))) if steps else []
        columns.append([_grid(run, step) for step in chosen])
    rows = max(map(len, columns), default=0)
    return [[column[i] if i < len(column) else None for column in columns] for i in range(rows)]


def _grid(run: TrainingRun, step: int) -> Grid | None:
    """The samples of a step; None if they cannot be read."""
    file, title = run.grids[step], f"samples of {run.name} at step {step}"
    try:
        if file.suffix == ".txt":
            lines = file.read_text(encoding="utf-8").splitlines()
            return Grid(f"{step:,}", title, "", "\n".join(lines[:LINES]), False)
        content, kind, smooth = _reduced(file.read_bytes())
    except (OSError, ValueError):
        return None
    return Grid(f"{step:,}", title, f"data:image/{kind};base64,{base64.b64encode(content).decode()}", "", smooth)


def _reduced(content: bytes) -> tuple[bytes, str, bool]:
    """(content, format, whether it was reduced) of a PNG that is at most WIDEST pixels wide."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        if picture.width <= WIDEST:
            return content, "png", False
        small = picture.convert("RGB").resize((WIDEST, round(picture.height * WIDEST / picture.width) or 1))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return file.getvalue(), "jpeg", True
