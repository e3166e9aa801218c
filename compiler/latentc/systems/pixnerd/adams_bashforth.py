"""The Adams-Bashforth method on a flow's velocity."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler, continuous_interval
from latentc.components.samplers.grid import evaluation
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, Table


class AdamsBashforth(ArraySampler):
    """Integrates the polynomial through the newest `order` velocities over the time (PixNerd, Wang et al. 2025).

    Its weights depend on the times alone, so the grid need not be even. The first steps are of lower order.
    """

    kind: Literal["adams_bashforth"]
    order: Literal[1, 2, 3, 4] = Field(2, description="number of velocities that a step reads")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adams_bashforth", "steps": 4}

    def interval(self, target: Parameterization) -> Interval:
        if target.predicts == "flow_velocity":
            return Interval(target.process.first, target.process.last)
        return continuous_interval(target, self.kind)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        steps = script.function(adams_bashforth_steps)
        script.loop(f"{script.evaluation('flow_velocity')}(t[:-1])", f"{steps}(t, order={self.order})")

    def table(self, target: Parameterization) -> Table:
        grid = self.grid(target)
        columns = evaluation(grid.process, grid.times[:-1], target.predicts, "flow_velocity")
        columns |= {"x": np.ones(grid.steps), **adams_bashforth_steps(grid.times, self.order)}
        return Table(self.kind, LINEAR, columns, history=self.order - 1, prior=grid.prior)


def adams_bashforth_steps(t: Array, order: int) -> dict[str, Array]:
    """Adams-Bashforth at times t (Hairer, Norsett and Wanner 1993, III.5): coefficients of the velocity (d) and of
    earlier ones (h1, …).
    """
    weights = np.zeros((order, len(t) - 1))
    for step, length in enumerate(np.diff(t)):
        count = min(order, step + 1)
        # In units of the step, from its start, so that the powers stay near 1.
        nodes = (t[step - count + 1 : step + 1][::-1] - t[step]) / length
        powers = np.vander(nodes, count, increasing=True)
        weights[:count, step] = length * np.linalg.solve(powers.T, 1.0 / np.arange(1, count + 1))
    return {"d": weights[0], **{f"h{i}": weights[i] for i in range(1, order)}}
