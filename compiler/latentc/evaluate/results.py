"""The results of an evaluation as a table and as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentc.evaluate.judge import Judge, Result
from latentc.evaluate.metrics.contract import Figures
from latentc.evaluate.sources import SampleSource
from latentc.measure.tables import aligned, finite
from latentc_runtime.class_names import title

SHOWN = 20  # largest number of classes in the printed table
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class Run:
    """The samples of one guidance scale, None for the default, and what was found."""

    guidance: float | None
    source: SampleSource
    result: Result


@dataclass(frozen=True)
class Evaluation:
    """The results of `evaluate`: one run per guidance scale. `names`: those of classes, if they are known."""

    name: str
    judge: Judge
    runs: tuple[Run, ...]
    seconds: float
    names: tuple[str, ...] = ()

    @property
    def figures(self) -> list[str]:
        """Names of the figures that some run has, in the order of tables."""
        return list(dict.fromkeys(name for run in self.runs for name in run.result.figures))

    def heading(self, name: str) -> str:
        """A figure's name with an arrow to where it is better."""
        return f"{name} {ARROWS[self.judge.figure(name).better]}"

    def title(self, label: int) -> str:
        """A class by its name, or its number if it has none."""
        return title(self.names, label)

    def facts(self) -> dict[str, str]:
        """The compared samples, how they were drawn and by what they are compared, in words."""
        judge = self.judge
        reference = judge.references[judge.main]
        found = {"samples": self.runs[0].source.name}
        for name, value in self.runs[0].source.facts.items():
            found[name] = ", ".join(dict.fromkeys([value, *(run.source.facts[name] for run in self.runs)]))
        found["reference"] = reference.name
        found["features"] = ", ".join(judge.extractors[name].title for name in judge.references)
        if judge.extractors[judge.main].frechet != "fid":
            found["comparable"] = "only with figures of the same features, not with published ones"
        if judge.classifier is not None:
            found["classifier"] = judge.extractors[judge.classifier].title
        if judge.training_source is not None:
            found["training set"] = judge.training_source.name
        return found

    def text(self) -> str:
        """Facts, the figures of each run, and those of each class if there are few."""
        lines = [f"{key}: {value}" for key, value in self.facts().items()]
        lines += ["", *self._overall(), *self._classes()]
        missing = self.runs[0].result.missing
        for why in dict.fromkeys(missing.values()):
            lines.append(f"not computed: {', '.join(n for n, reason in missing.items() if reason == why)} ({why})")
        return "\n".join([*lines, f"{self.seconds:.1f} s"]) + "\n"

    def _overall(self) -> list[str]:
        if len(self.runs) > 1:
            rows = [["guidance", *map(self.heading, self.figures)]]
            rows += [[f"{run.guidance:g}", *self.cells(run.result.figures)] for run in self.runs]
            return [*aligned(rows, left=1), ""]
        figures = self.runs[0].result.figures
        rows = [[self.heading(name), figure_text(figures[name]), self.judge.figure(name).about] for name in figures]
        width = max(len(row[0]) for row in rows) if rows else 0
        return [*(f"{name:{width}}  {value:>9}  {about}" for name, value, about in rows), ""]

    def _classes(self) -> list[str]:
        by_class = self.runs[0].result.by_class
        names = list(dict.fromkeys(name for figures in by_class.values() for name in figures))
        if not names or len(by_class) > SHOWN:
            return []
        rows = [["class", *map(self.heading, names)]]
        rows += [[self.title(label), *self.cells(figures, names)] for label, figures in by_class.items()]
        return [*aligned(rows, left=1), ""]

    def cells(self, figures: Figures, names: Sequence[str] = ()) -> list[str]:
        """The figures as texts, empty where there is none."""
        return [figure_text(figures[n]) if n in figures else "" for n in names or self.figures]

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        judge = self.judge
        found = {
            "name": self.name,
            **{key.replace(" ", "_"): value for key, value in self.facts().items()},
            "extractors": {name: extractor.identity for name, extractor in judge.extractors.items()},
            "figures": {
                name: {"better": judge.figure(name).better, "about": judge.figure(name).about} for name in self.figures
            },
            "seconds": self.seconds,
            "runs": [
                {
                    "guidance": run.guidance,
                    "count": run.source.size,
                    "figures": run.result.figures,
                    "not_computed": dict(run.result.missing),
                    "classes": {self.title(label): figures for label, figures in run.result.by_class.items()},
                }
                for run in self.runs
            ],
        }
        plain: dict[str, Any] = finite(found)
        return plain


def figure_text(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}" if math.isfinite(value) else "–"
