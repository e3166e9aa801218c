"""Steps by average velocities, with a share of the noise replaced in each."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.parts import Fraction
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.flow_map import FlowMap
from latentc.components.samplers.ode import TIME, euler
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Table


class StochasticFlowMap(FlowMap):
    """Steps x - (t - r) u, of which all but the first and the last also take out `stochasticity` (t - r) of the noise
    x + (1 - t) u, and add new noise of variance 2 `stochasticity` t (t - r) (TiM, Wang et al. 2025, arXiv:2509.04394).
    """

    kind: Literal["stochastic_flow_map"]  # type: ignore[assignment]
    steps: int = Field(250, gt=0, le=100_000, description="number of network evaluations")
    stochasticity: Fraction = Field(0.2, description="share of the noise that is replaced, per unit of time")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "stochastic_flow_map", "steps": 3}

    def table(self, target: Parameterization) -> Table:
        grid = self.grid(target)
        made = euler(grid, target.predicts, TIME)
        columns = {**made.columns, **stochastic_steps(grid.times, grid.alpha, grid.sigma, self.stochasticity)}
        if grid.steps < 3:
            del columns["noise"]
        return Table(self.kind, LINEAR, columns, prior=made.prior)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        share = script.argument("stochasticity", self.stochasticity)
        evaluated = f"{script.evaluation('flow_velocity')}(t[:-1])"
        script.loop(evaluated, f"{script.function(stochastic_steps)}(t, alpha, sigma, {share})")


def stochastic_steps(t: Array, alpha: Array, sigma: Array, stochasticity: float) -> dict[str, Array]:
    """x' = x - dt d - s dt (x + alpha d) + sqrt(2 s sigma dt) z, dt = t - t'; s is 0 in the first and the last step."""
    dt = np.abs(np.diff(t))
    share = np.full(len(dt), stochasticity)
    share[0], share[-1] = 0.0, 0.0
    taken = share * dt
    noise = np.sqrt(2.0 * taken * sigma[:-1])
    return {"x": 1.0 - taken, "d": np.diff(t) - taken * alpha[:-1], "noise": noise, "span": dt}
