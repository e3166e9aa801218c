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
from latentc.evaluate.sources import SampleSource
from latentc.export.folder import new_folder
from latentc.files.named import write_text
from latentc.files.templates import rendered
from latentc_runtime.media.pixels import png

MARK = "metrics.json"  # marks a folder as evaluation results, which may be replaced
CLASSES, COLUMNS = 20, 8  # largest number of classes in the grid, and samples of each
PLAIN = 4  # rows of samples without classes
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


def _grid(found: Evaluation, run: Run) -> list[tuple[str, list[Picture], list[Picture]]]:
    """The first samples of each class, at most CLASSES of them, and of the reference; without classes, the first ones.

    Rows of (class, samples, real ones); no real ones if the reference holds statistics alone.
    """
    labels, real, held = run.result.compared.labels, found.judge.real, run.result.compared.reference.labels
    count = len(run.result.compared)
    if labels is None:
        starts = range(0, min(count, PLAIN * COLUMNS), COLUMNS)
        rows = [("", list(range(i, min(i + COLUMNS, count)))) for i in starts]
        theirs = [list(range(i, min(i + COLUMNS, real.size if real else 0))) for i in starts]
    else:
        own = np.unique(labels)
        chosen = own[np.linspace(0, len(own) - 1, min(len(own), CLASSES)).round().astype(int)]
        rows = [(found.title(int(k)), _first(labels, k)) for k in chosen]
        theirs = [[] if real is None or held is None else _first(held, k) for k in chosen]
    samples = _shown(run.source, [i for _, row in rows for i in row], "sample")
    if not samples:
        return []
    beside = _shown(real, [i for row in theirs for i in row], "real sample") if real else {}
    both = zip(rows, theirs, strict=True)
    return [(title, [samples[i] for i in row], [beside[i] for i in r if i in beside]) for (title, row), r in both]


def _first(labels: np.ndarray, label: int) -> list[int]:
    """The first samples of a class."""
    return [int(i) for i in np.flatnonzero(labels == label)[:COLUMNS]]


def _shown(source: SampleSource, index: Sequence[int], what: str) -> dict[int, Picture]:
    """The pictures of samples by number; none if they are no images."""
    index = sorted(set(index))
    samples = source.at(index) if index else None
    if samples is None or not samples.are_images:
        return {}
    return dict(zip(index, pictures_of(samples, [f"{what} {i}" for i in index]), strict=True))


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
