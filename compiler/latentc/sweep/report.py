"""The results of a sweep as a table, as CSV and as data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentc.diagnostics import DiagnosticError
from latentc.evaluate.metrics import is_frechet
from latentc.measure.tables import aligned, csv_text, finite
from latentc.sweep.axes import Axis
from latentc.sweep.trials import DONE, Outcome


@dataclass(frozen=True)
class Row:
    """A finished trial: its settings by path, its outcome, the folders of its log and report and of its project."""

    chosen: Mapping[str, str]
    outcome: Outcome
    folder: Path
    training: Path


@dataclass(frozen=True)
class Swept:
    """The results of `sweep`; `metric` ranks the rows, `wanted` trials were asked for. `best` is None if none is done.

    `weights`: those of the best.
    """

    name: str
    folder: Path
    axes: tuple[Axis, ...]
    metric: str
    better: Literal["lower", "higher"]
    rows: tuple[Row, ...]  # the best first
    wanted: int

    @property
    def best(self) -> Row | None:
        first = self.rows[0] if self.rows else None
        return first if first is not None and first.outcome.status == DONE else None

    @property
    def weights(self) -> Path | None:
        return None if self.best is None else self.best.training / "runs" / "train" / "weights.safetensors"

    @property
    def figures(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.outcome.figures))

    def text(self) -> str:
        """A table of the trials, the best first, and a line for each fault."""
        names, figures = short_names(self.axes), self.figures
        rows = [["", *names.values(), *figures, "seconds", "status"]]
        for row in self.rows:
            found = row.outcome
            cells = [f"{found.figures[name]:.4g}" if name in found.figures else "" for name in figures]
            mark = "→" if row is self.best else ""
            rows.append([mark, *(row.chosen[p] for p in names), *cells, f"{found.seconds:.1f}", found.status])
        done = sum(row.outcome.status == DONE for row in self.rows)
        head = f"{self.name}: {done} of {self.wanted} trials done, ranked by {self.metric} ({self.better} is better)"
        lines = [head, "", *aligned(rows, left=1), ""]
        faults = Counter((row.outcome.status, row.outcome.message) for row in self.rows if row.outcome.status != DONE)
        lines += [f"{status}{f' ({count} times)' if count > 1 else ''}: {m}" for (status, m), count in faults.items()]
        return "\n".join(lines).rstrip() + "\n"

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        plain: dict[str, Any] = finite(
            {
                "name": self.name,
                "folder": str(self.folder),
                "metric": self.metric,
                "better": self.better,
                "best": None if self.best is None else self._data(self.best),
                "weights": None if self.weights is None else str(self.weights),
                "trials": [self._data(row) for row in self.rows],
            }
        )
        return plain

    def csv(self) -> str:
        """One row per trial, the best first."""
        figures = self.figures
        rows = []
        for row in self.rows:
            data = self._data(row)
            cells = {name: f"{data['figures'][name]:.6g}" if name in data["figures"] else "" for name in figures}
            rows.append(
                {**row.chosen, "status": data["status"], **cells, "seconds": f"{data['seconds']:.1f}"}
                | {key: data[key] for key in ("folder", "training", "message")}
            )
        return csv_text(rows)

    def none_done(self) -> DiagnosticError:
        """E0718: the faults of the trials."""
        notes = [f"{row.outcome.status}: {row.outcome.message}" for row in self.rows]
        mend = f"{self.folder}/trials has a log of each"
        notes = list(dict.fromkeys(notes))[:6]
        return DiagnosticError.of("E0718", "no trial of the sweep finished", notes=tuple(notes), help=mend)

    def _data(self, row: Row) -> dict[str, Any]:
        found = row.outcome
        return {
            "settings": dict(row.chosen),
            "status": found.status,
            "figures": dict(found.figures),
            "seconds": found.seconds,
            "folder": str(row.folder.relative_to(self.folder.absolute())),
            "training": str(row.training.relative_to(self.folder.absolute())),
            "message": found.message,
        }


def ranked(rows: Sequence[Row], metric: str, better: str) -> tuple[Row, ...]:
    """The rows that are done by their figure, the best first, then the others."""
    sign = -1.0 if better == "higher" else 1.0

    def key(row: Row) -> tuple[bool, float]:
        value = ranking(row.outcome, metric)
        return value is None, 0.0 if value is None else sign * value

    return tuple(sorted(rows, key=key))


def ranking(outcome: Outcome, metric: str) -> float | None:
    """The figure that ranks a trial; `fd` asks for the Fréchet distance of any features. None if it has none."""
    names = [name for name in outcome.figures if name == metric or (metric == "fd" and is_frechet(name))]
    value = outcome.figures[names[0]] if outcome.status == DONE and names else math.nan
    return value if math.isfinite(value) else None


def short_names(axes: Sequence[Axis]) -> dict[str, str]:
    """The name of each path in tables: its last word, or all of it where two would be equal."""
    last = Counter(axis.name for axis in axes)
    return {axis.path: axis.name if last[axis.name] == 1 else axis.path for axis in axes}
