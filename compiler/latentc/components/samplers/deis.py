"""The Adams-Bashforth solvers of the probability-flow equation in the noise: DEIS and iPNDM.

With y = x / alpha and rho = sigma / alpha the equation is dy / d rho = noise, for schedules and paths alike. A step
integrates a polynomial through the newest estimates of the noise; its weights depend on the grid alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.grid import Grid, evaluation
from latentc.components.samplers.multistep import Gridded, history_names
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Table

Variable = Literal["rho", "log_rho"]
OF_NOISE = ("noise", "score", "scaled_score")
"""Predictions that are multiples of the noise."""
ADAMS_BASHFORTH = ((1,), (3, -1), (23, -16, 5), (55, -59, 37, -9))
"""Weights of order 1 to 4 on an even grid, newest first, times their sum (Hairer, Norsett and Wanner 1993, III.1)."""


class Deis(Gridded):
    """DEIS, an exponential Adams-Bashforth integrator of the noise (Zhang and Chen 2023, arXiv:2204.13902)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "deis", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["deis"]
    order: Literal[1, 2, 3, 4] = Field(3, description="order of the solver: number of estimates per step")
    polynomial: Variable = Field("log_rho", description="polynomials in sigma / alpha (rho), or in its logarithm")

    def table(self, target: Parameterization) -> Table:
        return deis(self.grid(target), target.predicts, self.order, self.polynomial)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        _write(script, script.function(deis_steps, variable=self.polynomial), self.order)


class Ipndm(Gridded):
    """PLMS, the linear multistep pseudo-numerical method (PNDM, Liu et al. 2022), with one evaluation per step: the
    first steps have lower order (iPNDM, Zhang and Chen 2023).
    """

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ipndm", "steps": 6, "guidance": {"scale": 2.0}}

    kind: Literal["ipndm"]
    order: Literal[1, 2, 3, 4] = Field(4, description="order of the solver: number of estimates per step")

    def table(self, target: Parameterization) -> Table:
        return ipndm(self.grid(target), target.predicts, self.order)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        _write(script, script.function(ipndm_steps), self.order)


def _write(script: Script, steps: str, order: int) -> None:
    script.start()
    evaluated, steps = f"{script.evaluation('noise')}(t[:-1])", f"{steps}(alpha, sigma, order={order})"
    if script.target.predicts in OF_NOISE:
        script.loop(evaluated, steps)
        return
    script.line(f"columns = {evaluated}")
    first = "0.0, 1.0"
    if script.target.predicts != "x0":
        script.line(f"first = {script.evaluation('x0', name='evaluation_of_data')}(t[:1])")
        first = 'first["c_skip"][0], first["c_out"][0]'
    script.line(f'columns["c_skip"][0], columns["c_out"][0] = {first}')
    script.loop("columns", f"{script.function(first_of_data)}(alpha, sigma, {steps})")


def deis(grid: Grid, predicts: Prediction, order: int = 3, variable: Variable = "log_rho") -> Table:
    """DEIS: the polynomial of degree `order` - 1 is in rho, or in log(rho). ValueError: alpha is 0 somewhere.

    The order is at most the number of estimates so far; in log(rho) a step to sigma = 0 is of first order.
    """
    return _table("deis", grid, predicts, order, partial(deis_steps, variable=variable))


def ipndm(grid: Grid, predicts: Prediction, order: int = 4) -> Table:
    """iPNDM: PLMS (Liu et al. 2022, equation 12) whose first steps are of lower order (Zhang and Chen 2023, C.3).

    The weights are those of an even grid, whatever the grid is. ValueError: alpha is 0 somewhere.
    """
    return _table("ipndm", grid, predicts, order, ipndm_steps)


def _table(solver: str, grid: Grid, predicts: Prediction, order: int, solve: Callable[..., dict[str, Array]]) -> Table:
    if not np.all(grid.alpha > 0.0):
        raise ValueError("a solver in sigma / alpha needs alpha > 0: start later")
    columns = grid.evaluation(predicts, "noise")
    if predicts not in OF_NOISE:
        of_data = evaluation(grid.process, grid.times[:1], predicts, "x0")
        for name in ("d_x", "d_output", "d_guide"):
            columns[name][0] = of_data[name][0]
    with np.errstate(divide="ignore", invalid="ignore"):  # sigma may end at 0
        steps = solve(grid.alpha, grid.sigma, order=order)
        if predicts not in OF_NOISE:
            steps = first_of_data(grid.alpha, grid.sigma, steps)
    return Table(solver, LINEAR, {**columns, **steps}, history=order - 1, prior=grid.prior)


def deis_steps(alpha: Array, sigma: Array, order: int, variable: str) -> dict[str, Array]:
    """DEIS (Zhang and Chen 2023, equation 15): coefficients of x, of the noise (d) and of earlier noise (h1, …)."""
    rho = sigma / alpha
    nodes = rho if variable == "rho" else np.log(rho)
    weights = []
    for step in range(len(rho) - 1):
        now = min(order, step + 1) if np.isfinite(nodes[step + 1]) else 1
        newest = nodes[step - now + 1 : step + 1][::-1]
        first_order = np.array([rho[step + 1] - rho[step]])
        weights.append(first_order if now == 1 else integrals(newest, nodes[step + 1], variable))
    return adams_steps(alpha, weights, order)


def integrals(nodes: Array, end: float, variable: str) -> Array:
    """The integral over rho of each Lagrange polynomial through the nodes, from the first of them to the end."""
    points, weights = np.polynomial.legendre.leggauss(32)
    half = (end - nodes[0]) / 2
    at = nodes[0] + half * (points + 1)
    density = half * weights * (1.0 if variable == "rho" else np.exp(at))
    result = []
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        result.append(np.sum(density * np.prod((at[:, None] - others) / (node - others), axis=1)))
    return np.array(result)


def ipndm_steps(alpha: Array, sigma: Array, order: int) -> dict[str, Array]:
    """iPNDM (Zhang and Chen 2023, C.3): coefficients of x, of the noise (d) and of earlier noise (h1, …)."""
    weights = []
    for step, size in enumerate(np.diff(sigma / alpha)):
        newest = np.array(ADAMS_BASHFORTH[min(order, step + 1) - 1])
        weights.append(size * (newest / newest.sum()))
    return adams_steps(alpha, weights, order)


def adams_steps(alpha: Array, weights: list[Array], order: int) -> dict[str, Array]:
    """x' = alpha' (x / alpha + weights · noise), newest first."""
    columns = {name: np.zeros(len(weights)) for name in ("d", *history_names(order))}
    for step, row in enumerate(weights):
        for name, weight in zip(columns, row, strict=False):
            columns[name][step] = alpha[step + 1] * weight
    return {"x": alpha[1:] / alpha[:-1], **columns}


def first_of_data(alpha: Array, sigma: Array, columns: dict[str, Array]) -> dict[str, Array]:
    """The columns, rewritten for a first estimate of the data.

    Where the first alpha is nearly 0, x and the noise are all but equal: the little that the network says of the data
    would be lost in their difference. Later steps have that first noise from the state, which is linear in it: noise =
    u * x + v · (h1, h2, …), the last of these the data.
    """
    ratio = sigma[1] / sigma[0]
    columns["x"][0], columns["d"][0] = ratio, alpha[1] - ratio * alpha[0]
    u, v = 1.0 / sigma[1], np.array([-alpha[1] / sigma[1]])
    for step in range(1, min(len(columns) - 1, len(alpha) - 1)):
        weight = columns[f"h{step}"][step]  # of the first noise, the oldest estimate so far
        columns[f"h{step}"][step] = 0.0
        columns["x"][step] += weight * u
        for age, part in enumerate(v, 1):
            columns[f"h{age}"][step] += weight * part
        # The previous state, from the one that this step produces.
        x = columns["x"][step]
        past = np.array([columns["d"][step], *(columns[f"h{age}"][step] for age in range(1, step + 1))])
        u, v = u / x, np.array([0.0, *v]) - u / x * past
    return columns
