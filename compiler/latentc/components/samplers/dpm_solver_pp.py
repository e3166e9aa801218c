"""DPM-Solver++ multistep."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.multistep import Multistep, history_names, log_steps
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Table

SolverType = Literal["midpoint", "heun"]


class DpmSolverPp(Multistep):
    """DPM-Solver++ multistep (Lu et al. 2022): 2M at order 2, 3M at order 3."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "dpm_solver_pp",
        "steps": 5,
        "guidance": {"scale": 2.0, "interval": [0.2, 0.7]},
    }

    kind: Literal["dpm_solver_pp"]
    solver_type: SolverType = Field("midpoint", description="variant of the second-order solver")

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        steps = script.function(
            dpm_solver_steps, solver_type=self.solver_type, lower_order_final=self.lower_order_final
        )
        script.loop(f"{script.evaluation('x0')}(t[:-1])", f"{steps}(alpha, sigma, order={self.order})")

    def table(self, target: Parameterization) -> Table:
        return dpm_solver_pp(
            self.grid(target), target.predicts, self.order, self.solver_type, self.lower_order_final, self.clip
        )


def dpm_solver_pp(
    grid: Grid,
    predicts: Prediction,
    order: int = 2,
    solver_type: SolverType = "midpoint",
    lower_order_final: bool = True,
    clip: float | None = None,
) -> Table:
    """DPM-Solver++ multistep, `order` 1 to 3 (Lu et al. 2022, algorithm 2 and appendix; data prediction).

    `solver_type` is the second order's variant. The order is at most the number of estimates so far; with
    `lower_order_final` the last steps of fewer than 15 go down to 1, and a step to sigma = 0, where h is
    infinite, is always of first order (it is the estimate itself).
    """
    if order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver++ has orders 1, 2 and 3, not {order}")
    with np.errstate(divide="ignore"):
        steps = dpm_solver_steps(grid.alpha, grid.sigma, order, solver_type, lower_order_final)
    columns = {**grid.evaluation(predicts, "x0"), **steps}
    return Table("dpm_solver_pp", LINEAR, columns, history=order - 1, clip=clip, prior=grid.prior)


def dpm_solver_steps(
    alpha: Array, sigma: Array, order: int, solver_type: str, lower_order_final: bool
) -> dict[str, Array]:
    """DPM-Solver++ (Lu et al. 2022): coefficients of x, of the data (d) and of earlier data (h1, h2)."""
    steps = len(alpha) - 1
    columns = {name: np.zeros(steps) for name in ("x", "d", *history_names(order))}
    for step in range(steps):
        now = min(order, step + 1)
        if lower_order_final and steps < 15:
            now = min(now, steps - step)
        now = 1 if sigma[step + 1] == 0.0 else now
        columns["x"][step] = sigma[step + 1] / sigma[step]
        weights = dpm_solver_weights(alpha, sigma, step, now, solver_type)
        for name, weight in zip(("d", *history_names(order)), weights, strict=False):
            columns[name][step] = weight
    return columns


def dpm_solver_weights(alpha: Array, sigma: Array, step: int, order: int, solver_type: str) -> list[float]:
    """Coefficients of the current estimate and of the earlier ones, newest first."""
    alpha_next = alpha[step + 1]
    if order == 1:
        # alpha' (1 - e^-h), in a form that is finite at sigma' = 0 (h infinite) and at alpha = 0
        return [alpha_next - alpha[step] * sigma[step + 1] / sigma[step]]
    h = log_steps(np.log(alpha) - np.log(sigma), step, order)
    phi_1 = -math.expm1(-h[0])  # 1 - e^-h
    phi_2 = 1.0 - phi_1 / h[0]
    r0 = h[1] / h[0]
    # first divided difference (m0 - m1) / r0, as coefficients of (m0, m1, m2)
    first = np.array([1.0, -1.0, 0.0]) / r0
    if order == 2:
        second_term = phi_1 / 2 if solver_type == "midpoint" else phi_2
        weights = np.array([phi_1, 0.0, 0.0]) + second_term * first
        return list(alpha_next * weights[:2])
    r1 = h[2] / h[0]
    earlier = np.array([0.0, 1.0, -1.0]) / r1
    slope = first + r0 / (r0 + r1) * (first - earlier)
    curve = (first - earlier) / (r0 + r1)
    phi_3 = 0.5 - (h[0] - phi_1) / h[0] ** 2
    return list(alpha_next * (np.array([phi_1, 0.0, 0.0]) + phi_2 * slope + phi_3 * curve))
