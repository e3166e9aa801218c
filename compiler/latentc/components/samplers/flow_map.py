"""Steps by average velocities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.ode import TIME, euler
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import Table


class FlowMap(ArraySampler):
    """Steps x - (t - r) u(x, r, t) with the average velocity u over each step from t to r, so that one step can suffice
    (MeanFlow, Geng et al. 2025, arXiv:2505.13447, algorithm 2).
    """

    kind: Literal["flow_map"]
    steps: int = Field(1, gt=0, le=100_000, description="number of network evaluations")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_map", "steps": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        objective = spec.objective
        target = objective.parameterization() if objective is not None else None
        if objective is not None and target is not None and not target.averaged:
            message = f"`flow_map` needs a network that predicts average velocities, but `{objective.kind}` trains none"
            yield Problem(("kind",), message, "use `{kind: euler}`, or an objective that trains them")
        else:
            yield from super().problems(spec)

    def interval(self, target: Parameterization) -> Interval:
        return Interval(target.process.first, target.process.last)

    def table(self, target: Parameterization) -> Table:
        grid = self.grid(target)
        made = euler(grid, target.predicts, TIME)
        return Table(self.kind, made.body, {**made.columns, "span": np.abs(np.diff(grid.times))}, prior=made.prior)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        evaluated = f"{script.evaluation('flow_velocity')}(t[:-1])"
        script.loop(evaluated, '{"d": np.diff(t), "span": np.abs(np.diff(t))}')
