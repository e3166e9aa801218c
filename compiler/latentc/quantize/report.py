"""The quantisation report: one row per layer, for CSV and for a self-contained HTML page with charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentc.files.templates import rendered
from latentc.passes.quantize.plan import LARGEST
from latentc.quantize.calibration import Calibration
from latentc.quantize.model import Model
from latentc.quantize.plan import Choice
from latentc.quantize.scales import reach, saturated

SHOWN = 40  # largest number of units in the chart of sensitivities


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


def rows_of(model: Model, choice: Choice, calibration: Calibration) -> list[Row]:
    """A row for every layer that can be quantised, in network order."""
    scheme, rows = model.settings.scheme, []
    for path, layer in choice.layers.items():
        seen, loss = calibration.inputs.get(layer.group), choice.losses.get(path)
        sensitive = choice.sensitivity.get(layer.group) if loss else None
        quantised = path in choice.quantization.plan
        end = None
        if seen is not None and loss is not None and scheme in LARGEST:
            end = reach(seen, scheme, model.settings.calibration.range)
        rows.append(
            Row(
                path=path.removesuffix(".weight"),
                unit=layer.group,
                op=layer.op,
                shape=" × ".join(map(str, layer.shape)),
                scheme=scheme if quantised else "",
                range=None if seen is None else seen.limit,
                reach=end,
                scale=None if end is None else end / LARGEST[scheme],
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


def page_of(
    rows: Sequence[Row], model: Model, choice: Choice, calibration: Calibration, facts: Mapping[str, str]
) -> str:
    """The rows as one HTML page that loads no other file; `facts` are listed at the top."""
    shown = {
        "facts": facts,
        "rows": rows,
        "static": model.settings.scheme in LARGEST,
        "smooth": model.settings.smooth is not None,
        "bars": _bars(rows, choice),
        "heat_maps": _heat_maps(calibration),
        "name": calibration.about["name"],
        "scheme": model.settings.scheme,
    }
    return rendered("quantization/report.html", shown)


# ---- charts


@dataclass(frozen=True)
class Bar:
    """The error of a network when one unit alone is quantised; `width` in percent of a logarithmic scale."""

    unit: str
    error: float
    width: float
    estimated: bool
    kept: bool  # some of its layers are left unquantised


@dataclass(frozen=True)
class HeatMap:
    """The largest input of each layer (rows, with the largest of all) at each call (columns), as a share of that."""

    method: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, float, tuple[float, ...]], ...]


def _bars(rows: Sequence[Row], choice: Choice) -> list[Bar]:
    """The most sensitive units, the worst first."""
    kept = {row.unit for row in rows if row.error is not None and not row.quantised}
    shown = [(unit, s) for unit, s in choice.sensitivity.items() if math.isfinite(s.error)][:SHOWN]
    logs = [math.log10(max(s.error, 1e-9)) for _, s in shown]
    low = min(logs, default=0.0) - 0.5
    wide = max(logs, default=0.0) - low
    return [
        Bar(unit, s.error, 100 * (log - low) / wide, s.estimated, unit in kept)
        for (unit, s), log in zip(shown, logs, strict=True)
    ]


def _heat_maps(calibration: Calibration) -> list[HeatMap]:
    """One for each method of which calls at several places were recorded."""
    found, first = [], 0
    for method, points in calibration.points.items():
        own = slice(first, first := first + len(points))
        columns = tuple(dict.fromkeys(points))
        rows = []
        for name, seen in calibration.inputs.items():
            peaks = [
                max(float(p) for p, point in zip(seen.peaks[own], points, strict=True) if point == column)
                for column in columns
            ]
            if largest := max(peaks):
                rows.append((name, largest, tuple(peak / largest for peak in peaks)))
        if rows and len(columns) > 1:
            found.append(HeatMap(method, columns, tuple(rows)))
    return found
