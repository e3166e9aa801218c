"""DPM-Solver and DPM-Solver++, singlestep: DPM-Solver-fast."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.formula_source import NoSourceError
from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.base import ArraySampler, path_interval
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.multistep import history_names
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.levels import OfLevels
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, Table


class DpmSolverSinglestep(ArraySampler):
    """DPM-Solver-fast (Lu et al. 2022, arXiv:2206.00927, section 3.4); with `predict_x0` DPM-Solver++ (2211.01095).

    Each step takes `order` evaluations, the last one fewer if the total requires it. It ends at the process's last
    time, not at the data.
    """

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "dpm_solver_singlestep", "steps": 7, "guidance": {"scale": 2.0}}
    SPACING: ClassVar[str] = "uniform"

    kind: Literal["dpm_solver_singlestep"]
    steps: int = Field(10, gt=0, le=100_000, description="network evaluations")
    order: Literal[1, 2, 3] = Field(3, description="order of the solver: evaluations per step")
    predict_x0: bool = Field(
        True, description="DPM-Solver++ (predicts the data); false: DPM-Solver (predicts the noise)"
    )
    eps: float = Field(1e-3, gt=0, lt=0.5, description="distance kept from the ends of the path")

    def interval(self, target: Parameterization) -> Interval:
        process = target.process
        if process.data == process.last:
            return path_interval(target, self.eps, data=False)
        return Interval(process.first, process.last)

    def write(self, script: Script) -> None:
        if self.timesteps is not None or isinstance(self.spacing_of(script.process), OfLevels):
            raise NoSourceError("the times within a step have no formulas")
        self.write_grid(script)
        script.start()
        steps = script.function(singlestep_steps, predict_x0=self.predict_x0)
        orders = f"{script.function(singlestep_orders)}(steps, {self.order})"
        evaluated = script.evaluation("x0" if self.predict_x0 else "noise")
        script.loop(f"{evaluated}(t[:-1])", f"{steps}(alpha, sigma, {orders})")

    def table(self, target: Parameterization) -> Table:
        process, orders = target.process, singlestep_orders(self.steps, self.order)
        spacing = self.spacing_of(process)
        if self.timesteps is None and isinstance(spacing, OfLevels):
            outer = spacing.grid(process, len(orders), self.interval(target))
            inner = [_even_in_log_snr(process, outer.times[i : i + 2], n) for i, n in enumerate(orders)]
            times = np.concatenate([outer.times[:1], *(points[1:] for points in inner)])
            grid = Grid(process, times, outer.levels)
        else:
            grid = self.grid(target)
        return dpm_solver_singlestep(grid, target.predicts, orders, self.predict_x0)


def singlestep_orders(evaluations: int, order: int) -> list[int]:
    """Evaluations of each step (DPM-Solver's appendix: the last steps of order 3 are of lower order)."""
    whole, rest = divmod(evaluations, order)
    if order == 3 and rest == 0:
        return [3] * (whole - 1) + [2, 1]
    return [order] * whole + ([rest] if rest else [])


def _even_in_log_snr(process: Process, ends: Array, count: int) -> Array:
    first, last = np.log(process.point(ends).level)
    levels = np.exp(np.linspace(first, last, count + 1))
    return np.concatenate([ends[:1], process.time_of_level(levels[1:-1]), ends[1:]])


def dpm_solver_singlestep(grid: Grid, predicts: Prediction, orders: list[int], predict_x0: bool = True) -> Table:
    """Steps of `orders` evaluations over consecutive times of the grid; one row per evaluation.

    ValueError: an infinite log signal-to-noise ratio, or a conversion that does not exist.
    """
    if not np.all(np.isfinite(grid.log_snr)):
        raise ValueError("a singlestep solver needs 0 < alpha and 0 < sigma: start later and end before the data")
    steps = singlestep_steps(grid.alpha, grid.sigma, orders, predict_x0)
    columns = {**grid.evaluation(predicts, "x0" if predict_x0 else "noise"), **steps}
    return Table("dpm_solver_singlestep", LINEAR, columns, history=max(orders) - 1, prior=grid.prior)


def singlestep_steps(alpha: Array, sigma: Array, orders: list[int], predict_x0: bool) -> dict[str, Array]:
    """Steps of `orders` evaluations each: coefficients of x, of an estimate (d) and of earlier ones (h1, h2)."""
    names = ("d", *history_names(max(orders)))
    columns = {name: np.zeros(len(alpha) - 1) for name in ("x", *names)}
    row = 0
    for order in orders:
        ends = slice(row, row + order + 1)
        for x, weights in singlestep_stages(alpha[ends], sigma[ends], predict_x0):
            columns["x"][row] = x
            for name, weight in zip(names, weights, strict=False):
                columns[name][row] = weight
            row += 1
    return columns


def singlestep_stages(alpha: Array, sigma: Array, predict_x0: bool) -> list[tuple[float, list[float]]]:
    """For each evaluation of a step: (coefficient of the state, those of the estimates, newest first).

    Each stage of the method starts from the step's first state, which is linear in the present state and the step's
    own estimates.
    """
    order, lam = len(alpha) - 1, np.log(alpha) - np.log(sigma)
    h = lam[-1] - lam[0]
    r = (lam - lam[0]) / h
    sign = -1.0 if predict_x0 else 1.0
    keep, scale = (sigma, alpha) if predict_x0 else (alpha, sigma)

    def stage(i: int) -> tuple[float, list[float]]:
        """State i: (coefficient of the step's first state, those of the estimates 0 to i - 1)."""
        phi_1 = math.expm1(sign * r[i] * h)
        first = -scale[i] * phi_1
        weights = [first] + [0.0] * (i - 1)
        if i > 1:  # the slope is the difference of estimate `other` and estimate 0
            other = 1 if order == 2 or i == 2 else 2
            if order == 2:
                slope = first / (2 * r[1])
            else:
                slope = -sign * scale[i] * (phi_1 / (r[i] * h) - sign) * r[i] / r[other]
            weights[0] -= slope
            weights[other] += slope
        return float(keep[i] / keep[0]), weights

    stages = []
    known, past = 1.0, np.zeros(0)  # the current state is known * first + past · estimates
    for i in range(1, order + 1):
        x, weights = stage(i)
        carried = x / known
        new = np.array(weights) - carried * np.append(past, 0.0)
        stages.append((carried, list(new[::-1])))
        known, past = x, np.array(weights)
    return stages
