"""The quantisation report: one row per layer, as CSV and as a self-contained HTML page with plots."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from latentc import resources
from latentc.passes.quantize import LARGEST
from latentc.quantize.calibration import Calibration
from latentc.quantize.plan import Choice
from latentc.quantize.scales import reach, saturated
from latentc.spec.sections import Quantize

SHOWN = 40  # bars in the plot of sensitivities


@dataclass(frozen=True)
class Row:
    """One layer; a figure that does not apply is None.

    `range`: largest magnitude of the input. `reach`: the largest that its scale represents; `saturated`: the share of
    values beyond. `weight_sqnr` and `output_sqnr` in dB are the layer's own. `error`: ‖Δ‖ / ‖y‖ of its network's output
    when only the layers of `unit`, which share an input, are quantised.
    """

    path: str
    unit: str
    op: str
    shape: str
    scheme: str
    range: float | None
    reach: float | None
    scale: float | None
    saturated: float | None
    weight_sqnr: float | None
    output_sqnr: float | None
    error: float | None
    estimated: bool
    quantised: bool
    why: str


def rows_of(choice: Choice, calibration: Calibration, asked: Quantize) -> list[Row]:
    """A row for every layer that can be quantised, in network order."""
    rows = []
    for path, layer in choice.layers.items():
        seen, loss = calibration.inputs.get(layer.group), choice.losses.get(path)
        sensitive = choice.sensitivity.get(layer.group) if loss else None
        quantised = path in choice.quantization.plan
        end = None
        if seen is not None and loss is not None and asked.scheme in LARGEST:
            end = reach(seen, asked.scheme, asked.calibration.range)
        rows.append(
            Row(
                path=path.removesuffix(".weight"),
                unit=layer.group,
                op=layer.op,
                shape=" × ".join(map(str, layer.shape)),
                scheme=asked.scheme if quantised else "",
                range=None if seen is None else seen.limit,
                reach=end,
                scale=None if end is None else end / LARGEST[asked.scheme],
                saturated=None if end is None or seen is None else saturated(seen, end),
                weight_sqnr=loss.weight if loss else None,
                output_sqnr=loss.output if loss else None,
                error=sensitive.error if sensitive and math.isfinite(sensitive.error) else None,
                estimated=bool(sensitive and sensitive.estimated),
                quantised=quantised,
                why=choice.kept.get(path, "within the budget" if quantised else ""),
            )
        )
    return rows


def csv_of(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(Row)]
    writer.writerow(names)
    writer.writerows([["" if (v := getattr(row, name)) is None else v for name in names] for row in rows])
    return text.getvalue()


def page_of(
    rows: Sequence[Row], choice: Choice, calibration: Calibration, asked: Quantize, facts: Mapping[str, str]
) -> str:
    """The rows as one HTML page that loads no other file; `facts` are listed at the top."""
    environment = Environment(
        loader=FileSystemLoader(resources.folder("templates") / "quantization"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    return environment.get_template("report.html.j2").render(
        facts=facts,
        rows=rows,
        static=asked.scheme in LARGEST,
        smooth=asked.smooth is not None,
        plots=_plots(rows, choice, calibration),
        name=calibration.about["name"],
        scheme=asked.scheme,
    )


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"


# ---- plots


def _plots(rows: Sequence[Row], choice: Choice, calibration: Calibration) -> list[tuple[str, str]]:
    """(title, SVG) of each plot; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    made = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "latentc", "font.size": 8}):
        if choice.sensitivity:
            made.append(("Error of the network when one unit alone is quantised", _sensitivity(rows, choice)))
        first = 0
        for method, points in calibration.points.items():
            own = slice(first, first := first + len(points))
            seen = {n: s.peaks[own] for n, s in calibration.inputs.items() if s.peaks[own].any()}
            if seen and len(set(points)) > 1:
                made.append((f"Largest input of each layer over the calls of {method}", _ranges(seen, points)))
    return made


def _sensitivity(rows: Sequence[Row], choice: Choice) -> str:
    from matplotlib.figure import Figure

    left = {row.unit for row in rows if row.error is not None and not row.quantised}
    finite = {unit: s for unit, s in choice.sensitivity.items() if math.isfinite(s.error)}
    shown = list(finite.items())[:SHOWN][::-1]
    figure = Figure(figsize=(9, 0.6 + 0.17 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(
        [unit for unit, _ in shown],
        [max(s.error, 1e-9) for _, s in shown],
        color=["#c44536" if unit in left else "#197278" for unit, _ in shown],
    )
    for bar, (_, s) in zip(bars, shown, strict=True):
        bar.set_hatch("///" if s.estimated else "")
    axes.set_xscale("log")
    axes.set_xlabel("‖Δ‖ / ‖y‖ of the network's output")
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.01)
    return _svg(figure)


def _ranges(seen: Mapping[str, Any], points: Sequence[str]) -> str:
    """A heat map of layers (rows) and calls (columns): each layer's peak relative to its largest."""
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(points))
    table = np.array(
        [
            [max(float(p) for p, point in zip(peaks, points, strict=True) if point == c) for c in columns]
            for peaks in seen.values()
        ]
    )
    share = table / np.maximum(table.max(axis=1, keepdims=True), 1e-30)
    figure = Figure(figsize=(9, 0.9 + 0.15 * len(seen)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(
        range(len(seen)),
        [f"{name}  (≤ {row.max():.3g})" for name, row in zip(seen, table, strict=True)],
        fontsize=6 if len(seen) > 60 else 8,
    )
    figure.colorbar(image, ax=axes, label="share of the layer's largest", fraction=0.03)
    return _svg(figure)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    made = text.getvalue()
    return made[made.index("<svg") :]


__all__ = ["Row", "csv_of", "page_of", "rows_of"]
