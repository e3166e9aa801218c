"""The results of tuning as a table, as CSV and as data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentc.tune.budget import Bound, Measured
from latentc.tune.candidates import Candidate


@dataclass(frozen=True)
class Screened:
    """A candidate tried on the engine of the network alone, with its error on the samples of the search."""

    candidate: Candidate
    evaluations: int
    passes: int  # runs of the network: two for a guided evaluation
    error: float


@dataclass(frozen=True)
class Tuned:
    """The results of `tune`. `own` is the spec's own sampler; `chosen` is None if no candidate is within the budget.

    `primary` is the quality that ranks candidates, `higher` names those where higher is better. `reference_error`:
    difference of the fine solution from one of half as many steps.
    """

    name: str
    device: str
    folder: Path
    batch: int
    samples: int
    screened: tuple[Screened, ...]
    measured: tuple[Measured, ...]
    own: Measured
    chosen: Measured | None
    bounds: tuple[Bound, ...]
    primary: str
    higher: frozenset[str]
    reference_error: float
    stopped: bool  # the search ran out of time
    left: int = 0  # promising candidates that there was no time to compile

    def text(self) -> str:
        """A table of the compiled candidates, and a line on the choice."""
        qualities = list(self.own.quality)
        rows = [["", "sampler", "steps", "evaluations", "GFLOP", f"s at batch {self.batch}", *qualities]]
        for m in self.measured:
            mark = "→" if m is self.chosen else "spec" if m is self.own else ""
            costs = [str(m.candidate.sampler.steps), str(m.evaluations), f"{m.gflop:.4g}", f"{m.seconds:.3g}"]
            rows.append([mark, m.candidate.name(), *costs, *(f"{m.quality[name]:.4g}" for name in qualities)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        head = f"{self.name} on {self.device}: {len(self.screened)} tried, {len(self.measured)} compiled and measured"
        head += f" on {self.samples} samples"
        notes = [f"the fine reference's own error: {self.reference_error:.2g}"]
        if self.stopped:
            notes.append("the search ran out of time: not everything was tried")
        if self.left:
            notes.append(f"there was no time to compile {self.left} more of the candidates")
        return "\n".join([head, "", *(line.rstrip() for line in lines), "", *notes, *self._choice()]) + "\n"

    def _choice(self) -> list[str]:
        if self.chosen is None:
            return []
        asked = ", ".join(map(str, self.bounds))
        fewer = self.own.evaluations / self.chosen.evaluations
        faster = self.own.seconds / self.chosen.seconds
        gain = f"{fewer:.3g} × fewer evaluations than the spec's own sampler, {faster:.3g} × as fast"
        return [f"chosen for {asked}: {self.chosen.candidate.name()}, {self.chosen.evaluations} evaluations ({gain})"]

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "name": self.name,
            "device": self.device,
            "folder": str(self.folder),
            "batch": self.batch,
            "samples": self.samples,
            "tried": len(self.screened),
            "budget": [str(bound) for bound in self.bounds],
            "reference_error": self.reference_error,
            "stopped": self.stopped,
            "left": self.left,
            "candidates": [_row(m, m is self.chosen) for m in self.measured],
        }


def _row(m: Measured, chosen: bool) -> dict[str, Any]:
    return {
        **_named(m.candidate),
        "evaluations": m.evaluations,
        "gflop": m.gflop,
        "seconds": m.seconds,
        **m.quality,
        "chosen": chosen,
    }


def _named(candidate: Candidate) -> dict[str, Any]:
    """The columns that identify a candidate."""
    s = candidate.sampler
    interval = s.guidance_interval
    return {
        "found": candidate.found,
        "kind": s.kind,
        "order": getattr(s, "order", None),
        "spacing": None if s.timesteps or s.spacing is None else s.spacing.kind,
        "steps": s.steps,
        "timesteps": list(s.timesteps) if s.timesteps else None,
        "guidance_interval": list(interval) if interval else None,
        "optimize": dict(candidate.optimize) or None,
    }


def candidates_csv(tuned: Tuned) -> str:
    """One row per candidate, measured ones first; figures that were not measured are empty."""
    errors = {id(s.candidate): s.error for s in tuned.screened}
    rows: list[dict[str, Any]] = []
    for m in tuned.measured:
        row = _row(m, m is tuned.chosen)
        rows.append({**row, "search_error": errors.get(id(m.candidate))})
    known = {id(m.candidate) for m in tuned.measured}
    for s in tuned.screened:
        if id(s.candidate) not in known:
            rows.append({**_named(s.candidate), "evaluations": s.evaluations, "search_error": s.error})
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return " ".join(f"{item:g}" for item in value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


__all__ = ["Screened", "Tuned", "candidates_csv"]
