"""The report of an evaluation as one HTML page that loads nothing: figures, trade-offs, samples, neighbours."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentc.evaluate.charts import Chart, chart
from latentc.evaluate.extractors.described import resized
from latentc.evaluate.pictures import Samples
from latentc.evaluate.results import Evaluation, Run, figure_text
from latentc.export.folder import new_folder
from latentc.files.named import write_text
from latentc.files.templates import rendered
from latentc_runtime.media.pixels import png

MARK = "metrics.json"  # marks a folder as evaluation results, which may be replaced
CLASSES, COLUMNS = 20, 8  # largest number of classes in the grid, and samples of each
PAIRS = 12  # samples shown next to their nearest training sample
LARGEST = 128  # side in pixels; larger pictures are reduced
ENLARGED = 48  # side in pixels on the page of smaller pictures


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, its width on the page in pixels, and what it shows."""

    data: str
    width: int
    title: str


@dataclass(frozen=True)
class Pair:
    """A sample and the training sample nearest to it; `distance` as a multiple of the median of unseen real samples."""

    sample: Picture
    nearest: Picture
    distance: float


@dataclass(frozen=True)
class Cell:
    """A figure in a table; `best` and `worst` of its column, if there are several rows that differ."""

    text: str
    best: bool
    worst: bool


@contextlib.contextmanager
def report_folder(folder: Path | None) -> Iterator[Callable[[Evaluation], None]]:
    """Writer of report.html and metrics.json into `folder`, which appears whole when the block ends.

    Opened before the work begins, so that a folder of other things is refused in time; None: nothing is written.
    DiagnosticError E0501, E0502.
    """
    if folder is None:
        yield lambda found: None
        return
    with new_folder(folder, "folder of evaluation results", MARK) as target:

        def write(found: Evaluation) -> None:
            write_text(target / MARK, json.dumps(found.data(), indent=1) + "\n")
            write_text(target / "report.html", page_of(found))

        yield write


def page_of(found: Evaluation) -> str:
    """The whole page."""
    best = shown_run(found)
    several = len(found.runs) > 1
    names = list(dict.fromkeys(name for own in best.result.by_class.values() for name in own))
    facts = {
        "name": found.name,
        "facts": found.facts(),
        "figures": [
            (found.heading(n), figure_text(v), found.judge.figure(n).about) for n, v in best.result.figures.items()
        ],
        "missing": best.result.missing,
        "scale": f"{best.guidance:g}" if several else None,
        "headings": [found.heading(name) for name in found.figures],
        "runs": _marked(
            found, [f"{run.guidance:g}" for run in found.runs], [r.result.figures for r in found.runs], found.figures
        )
        if several
        else [],
        "charts": _charts(found),
        "grid": _grid(found, best),
        "pairs": _pairs(best, found),
        "class_headings": [found.heading(name) for name in names],
        "classes": _marked(
            found, [found.title(label) for label in best.result.by_class], list(best.result.by_class.values()), names
        ),
        "seconds": f"{found.seconds:.1f}",
        "identities": {name: extractor.identity for name, extractor in found.judge.extractors.items()},
    }
    return rendered("evaluation/report.html", facts)


def shown_run(found: Evaluation) -> Run:
    """The run whose samples are shown: of several guidance scales, the one with the least Fréchet distance."""
    frechet = next((name for name in found.figures if name.startswith(("fid", "fd"))), None)
    if frechet is None:
        return found.runs[0]
    return min(found.runs, key=lambda run: run.result.figures.get(frechet, math.inf))


# ---- tables and charts


def _marked(
    found: Evaluation, labels: Sequence[str], rows: Sequence[dict[str, float]], names: Sequence[str]
) -> list[tuple[str, list[Cell]]]:
    """Rows of a table, with the best and the worst figure of each column marked."""
    columns: dict[str, tuple[float | None, float | None]] = {}
    for name in names:
        values = [row[name] for row in rows if name in row and math.isfinite(row[name])]
        low, high = (min(values), max(values)) if values else (0.0, 0.0)
        ends = (low, high) if found.judge.figure(name).better == "lower" else (high, low)
        columns[name] = ends if low < high else (None, None)
    made = []
    for label, row in zip(labels, rows, strict=True):
        cells = []
        for name in names:
            value, (best, worst) = row.get(name), columns[name]
            text = "" if value is None else figure_text(value)
            cells.append(Cell(text, value is not None and value == best, value is not None and value == worst))
        made.append((label, cells))
    return made


def _charts(found: Evaluation) -> list[Chart]:
    """The trade-off of guidance: distances, shares of samples and reference, and one against the other."""
    runs = [run for run in found.runs if run.guidance is not None]
    if len(runs) < 2:
        return []

    def line(name: str) -> list[tuple[float, float]]:
        pairs = [(run.guidance, run.result.figures.get(name, math.nan)) for run in runs]
        return sorted((float(x), y) for x, y in pairs if x is not None and math.isfinite(y))

    frechet = [name for name in found.figures if name.startswith(("fid", "fd"))]
    made = [chart(name, "guidance scale", {name: line(name)}) for name in frechet]
    shares = {name: line(name) for name in ("precision", "recall", "coverage", "accuracy") if line(name)}
    made += [chart("shares", "guidance scale", shares)] if shares else []
    if frechet and line("recall"):
        by_scale = dict(line("recall"))
        points = [(by_scale[scale], value, f"{scale:g}") for scale, value in line(frechet[0]) if scale in by_scale]
        curve = {"by guidance scale": [(x, y) for x, y, _ in points]}
        made.append(chart(f"{frechet[0]} against recall", "recall", curve, [text for *_, text in points]))
    return made


# ---- pictures


def _grid(found: Evaluation, run: Run) -> list[tuple[str, list[Picture]]]:
    """The first samples of each class, at most CLASSES of them; without classes, the first samples."""
    labels = run.result.compared.labels
    count = len(run.result.compared)
    if labels is None:
        rows = {"": list(range(min(count, 4 * COLUMNS)))}
    else:
        held = np.unique(labels)
        chosen = held[np.linspace(0, len(held) - 1, min(len(held), CLASSES)).round().astype(int)]
        rows = {found.title(int(k)): np.flatnonzero(labels == k)[:COLUMNS].tolist() for k in chosen}
    index = sorted(i for row in rows.values() for i in row)
    samples = run.source.at(index)
    if not samples.are_images:
        return []
    titles = [f"sample {i}" for i in index]
    made = dict(zip(index, pictures_of(samples, titles), strict=True))
    return [(title, [made[i] for i in row]) for title, row in rows.items()]


def _pairs(run: Run, found: Evaluation) -> list[Pair]:
    """The samples nearest to the training set, each beside its neighbour."""
    near, source = run.result.compared.neighbours, found.judge.training_source
    if near is None or source is None:
        return []
    index = np.argsort(near.distances, kind="stable")[:PAIRS]
    ours, theirs = run.source.at(index.tolist()), source.at(near.indices[index].tolist())
    if not ours.are_images:
        return []
    usual = float(np.median(near.usual)) or 1.0
    labels = run.result.compared.labels
    of_class = ["" if labels is None else f", class {found.title(int(labels[i]))}" for i in index]
    samples = pictures_of(ours, [f"sample {i}{text}" for i, text in zip(index, of_class, strict=True)])
    neighbours = pictures_of(theirs, [f"training sample {i}" for i in near.indices[index]])
    distances = [float(near.distances[i]) / usual for i in index]
    return [Pair(*three) for three in zip(samples, neighbours, distances, strict=True)]


def pictures_of(samples: Samples, titles: Sequence[str]) -> list[Picture]:
    """Samples as PNGs of at most LARGEST pixels; small ones are enlarged on the page, in whole pixels."""
    pixels = samples.pixels()
    side = max(pixels.shape[1:3])
    if side > LARGEST:
        pixels = resized(pixels, LARGEST, "bicubic")
    width = pixels.shape[2]
    shown = width * max(1, -(-ENLARGED // width)) if width < ENLARGED else width
    encoded = (base64.b64encode(png(picture)).decode() for picture in pixels)
    return [Picture(f"data:image/png;base64,{data}", shown, title) for data, title in zip(encoded, titles, strict=True)]
