"""The results of tuning as a table, as CSV and as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentc.measure.tables import aligned, csv_text
from latentc.tune.budget import Goal, Measured
from latentc.tune.screen import Screened


@dataclass(frozen=True)
class Tuned:
    """The results of `tune`. `own` is the spec's own sampler; `chosen` is None if no candidate is within the budget.

    `reference_error`: difference of the reference solution from one of half as many steps; None without one.
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
    goal: Goal
    reference_error: float | None
    stopped: bool  # the search ran out of time
    left: int = 0  # promising candidates that there was no time to compile
    wanted: int = 0  # samples that there should have been

    def text(self) -> str:
        """A table of the compiled candidates, and a line on the choice."""
        qualities = list(self.own.quality)
        rows = [["", "sampler", "steps", "evaluations", "GFLOP", f"s at batch {self.batch}", *qualities]]
        for m in self.measured:
            mark = "→" if m is self.chosen else "spec" if m is self.own else ""
            costs = [str(m.candidate.sampler.steps), str(m.evaluations), f"{m.gflop:.4g}", f"{m.seconds:.3g}"]
            rows.append([mark, m.candidate.name(), *costs, *(f"{m.quality[name]:.4g}" for name in qualities)])
        head = f"{self.name} on {self.device}: {len(self.screened)} tried, {len(self.measured)} compiled and measured"
        lines = [f"{head} on {self.samples} samples", "", *aligned(rows, left=2), ""]
        if self.reference_error is not None:
            lines.append(f"error of the reference itself: {self.reference_error:.2g}")
        if self.stopped:
            lines.append("the search ran out of time: not everything was tried")
        if self.samples < self.wanted:
            lines.append(f"the time sufficed to judge on {self.samples} samples instead of {self.wanted}")
        if self.left:
            lines.append(f"there was no time to compile {self.left} more of the candidates")
        if self.chosen is not None:
            fewer = self.own.evaluations / self.chosen.evaluations
            faster = self.own.seconds / self.chosen.seconds
            gain = f"{fewer:.3g} × fewer evaluations than the spec's own sampler, {faster:.3g} × as fast"
            found = f"{self.chosen.candidate.name()}, {self.chosen.evaluations} evaluations ({gain})"
            lines.append(f"chosen for {self.goal}: {found}")
        return "\n".join(lines) + "\n"

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "name": self.name,
            "device": self.device,
            "folder": str(self.folder),
            "batch": self.batch,
            "samples": self.samples,
            "tried": len(self.screened),
            "budget": [str(bound) for bound in self.goal.bounds],
            "reference_error": self.reference_error,
            "stopped": self.stopped,
            "left": self.left,
            "candidates": [self._row(m) for m in self.measured],
        }

    def csv(self) -> str:
        """One row per candidate, measured ones first; figures that were not measured are empty."""
        errors = {id(s.candidate): s.error for s in self.screened}
        rows = [{**self._row(m), "search_error": errors.pop(id(m.candidate), None)} for m in self.measured]
        rows += [
            {**s.candidate.columns(), "evaluations": s.evaluations, "search_error": s.error}
            for s in self.screened
            if id(s.candidate) in errors
        ]
        return csv_text([{key: _cell(value) for key, value in row.items()} for row in rows])

    def _row(self, m: Measured) -> dict[str, Any]:
        costs = {"evaluations": m.evaluations, "gflop": m.gflop, "seconds": m.seconds}
        return {**m.candidate.columns(), **costs, **m.quality, "chosen": m is self.chosen}


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
