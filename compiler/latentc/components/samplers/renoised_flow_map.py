"""Steps to the data by average velocities, with new noise between them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.flow_map import FlowMap
from latentc.components.samplers.ode import TIME, euler
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Table


class RenoisedFlowMap(FlowMap):
    """Goes from each time to the data in one step, x0 = x - t u(x, 0, t), and adds noise up to the next time (SoFlow,
    Luo et al. 2025, arXiv:2512.15657; IMM's restart sampling, Zhou et al. 2025, arXiv:2503.07565).
    """

    kind: Literal["renoised_flow_map"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "renoised_flow_map", "steps": 2}

    def table(self, target: Parameterization) -> Table:
        grid = self.grid(target)
        made = euler(grid, target.predicts, TIME)
        columns = {**made.columns, **renoised_steps(grid.times, grid.alpha, grid.sigma)}
        if grid.steps == 1:
            del columns["noise"]
        return Table(self.kind, LINEAR, columns, prior=made.prior)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        evaluated = f"{script.evaluation('flow_velocity')}(t[:-1])"
        script.loop(evaluated, f"{script.function(renoised_steps)}(t, alpha, sigma)")


def renoised_steps(t: Array, alpha: Array, sigma: Array) -> dict[str, Array]:
    """x' = alpha' (x + (t_N - t) d) + sigma' z, with velocities d over the whole span to the data's time t_N."""
    scale, added = alpha[1:].copy(), sigma[1:].copy()
    scale[-1], added[-1] = 1.0, 0.0
    left = t[-1] - t[:-1]
    return {"x": scale, "d": scale * left, "noise": added, "span": np.abs(left)}
