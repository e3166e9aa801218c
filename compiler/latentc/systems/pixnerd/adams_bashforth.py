"""The Adams-Bashforth method on a flow's velocity."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler, continuous_interval
from latentc.components.samplers.grid import evaluation
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

    def table(self, target: Parameterization) -> Table:
        grid = self.grid(target)
        columns = evaluation(grid.process, grid.times[:-1], target.predicts, "flow_velocity")
        names = ["d", *(f"h{i}" for i in range(1, self.order))]
        weights = np.array([self._weights(grid.times, i) for i in range(grid.steps)])
        columns |= {"x": np.ones(grid.steps), **dict(zip(names, weights.T, strict=True))}
        return Table(self.kind, LINEAR, columns, history=self.order - 1, prior=grid.prior)

    def _weights(self, times: np.ndarray, step: int) -> np.ndarray:
        """f64[order]: the integrals of the Lagrange polynomials at the newest times over a step, newest first."""
        used = min(self.order, step + 1)
        # In units of the step from its start, in which the numbers stay of the order of 1.
        length = times[step + 1] - times[step]
        at = (times[step - used + 1 : step + 1][::-1] - times[step]) / length
        powers = np.vander(at, used, increasing=True)
        found = np.zeros(self.order)
        found[:used] = length * np.linalg.solve(powers.T, 1.0 / np.arange(1, used + 1))
        return found
