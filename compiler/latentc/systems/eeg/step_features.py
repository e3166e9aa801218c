"""EEGWave's features of the time: a table of sinusoids, interpolated between its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import TimeFeatures
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var
from latentc.systems.diffwave.step_table import interpolated_rows


class StepFeatures(TimeFeatures):
    """Rows of DiffWave's table of sinusoids, interpolated linearly at times from 0 to `levels` - 1 (EEGWave)."""

    kind: Literal["step_features"]
    levels: int = Field(1000, gt=1, le=100_000, description="number of rows: one more than the largest time")
    frequencies: int = Field(128, gt=2, le=65_536, multiple_of=2, description="number of features of a row")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "step_features"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = spec.objective.parameterization() if isinstance(spec.objective, Objective) else None
        if target is None:
            return
        process = target.process
        low, high = sorted(map(float, process.point([process.first, process.last]).time))
        if low < 0 or high > self.levels - 1:
            message = (
                f"the table has rows for times 0 to {self.levels - 1}, but the process has times {low:g} to {high:g}"
            )
            yield Problem(("levels",), message, "change `levels` or the process, or use `{kind: timestep}`")

    def static(self) -> dict[str, Any]:
        return {"levels": self.levels, "frequencies": self.frequencies}

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        return interpolated_rows(b, t, static["levels"], static["frequencies"])
