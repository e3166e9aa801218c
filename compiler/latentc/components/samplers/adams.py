"""The Adams-Bashforth solvers of the probability-flow equation in the noise: DEIS and iPNDM.

With y = x / alpha and rho = sigma / alpha the equation is dy / d rho = noise, for schedules and paths alike. A step
integrates a polynomial through the newest estimates of the noise; its weights depend on the grid alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction, conversion
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.table import LINEAR, Table

Variable = Literal["rho", "log_rho"]

# Adams-Bashforth of order 1 to 4 on an even grid, newest first (Hairer, Norsett and Wanner 1993, III.1, table 1.1).
_EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def deis(grid: Grid, predicts: Prediction, order: int = 3, variable: Variable = "log_rho") -> Table:
    """DEIS (Zhang and Chen 2023, equation 15): the polynomial of degree `order` - 1 is in rho, or in log(rho).

    The order is at most the number of estimates so far; in log(rho) a step to sigma = 0 is of first order.
    """
    rho = _rho(grid)
    with np.errstate(divide="ignore"):
        nodes = rho if variable == "rho" else np.log(rho)
    weights = []
    for step in range(grid.steps):
        now = 1 if not np.isfinite(nodes[step + 1]) else min(order, step + 1)
        newest = nodes[step - now + 1 : step + 1][::-1]
        ends = (rho[step], rho[step + 1]) if now == 1 else (nodes[step], nodes[step + 1])
        weights.append(_integrals(newest, ends, variable) if now > 1 else np.array([ends[1] - ends[0]]))
    return _table("deis", grid, predicts, order, weights)


def ipndm(grid: Grid, predicts: Prediction, order: int = 4) -> Table:
    """iPNDM: PLMS (Liu et al. 2022, equation 12) whose first steps are of lower order (Zhang and Chen 2023, C.3).

    The weights are those of an even grid, whatever the grid is.
    """
    steps = np.diff(_rho(grid))
    weights = [steps[i] * np.array(_EVEN[min(order, i + 1) - 1]) for i in range(grid.steps)]
    return _table("ipndm", grid, predicts, order, weights)


def _rho(grid: Grid) -> Array:
    """f64[N + 1]: sigma / alpha. ValueError where alpha is 0."""
    if not np.all(grid.alpha > 0.0):
        raise ValueError("a solver in sigma / alpha needs alpha > 0: start later")
    return grid.ratio


def _integrals(nodes: Array, ends: tuple[float, float], variable: Variable) -> Array:
    """The integral over rho of each Lagrange polynomial through `nodes`, from one end to the other in the variable."""
    points, weights = np.polynomial.legendre.leggauss(32)
    half = (ends[1] - ends[0]) / 2
    at = ends[0] + half * (points + 1)
    density = half * weights * (1.0 if variable == "rho" else np.exp(at))
    result = []
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        result.append(np.sum(density * np.prod((at[:, None] - others) / (node - others), axis=1)))
    return np.array(result)


def _table(solver: str, grid: Grid, predicts: Prediction, order: int, weights: list[Array]) -> Table:
    """x' = alpha' (x / alpha + weights · estimates), newest first."""
    columns = {name: np.zeros(grid.steps) for name in ("d", *(f"h{i}" for i in range(1, order)))}
    for step, row in enumerate(weights):
        for name, weight in zip(columns, row, strict=False):
            columns[name][step] = grid.alpha[step + 1] * weight
    columns = {**grid.evaluation(predicts, "noise"), "x": grid.alpha[1:] / grid.alpha[:-1], **columns}
    if predicts not in ("noise", "score", "scaled_score"):
        _first_of_data(grid, predicts, order, columns)
    return Table(solver, LINEAR, columns, history=order - 1, prior=grid.prior)


def _first_of_data(grid: Grid, predicts: Prediction, order: int, columns: dict[str, Array]) -> None:
    """Rewrites the columns for a first estimate of the data.

    Where the first alpha is nearly 0, x and the noise are all but equal: the little that the network says of the data
    would be lost in their difference. Later steps have that first noise from the state, which is linear in it:
    ``noise = u * x + v · (h1, h2, …)``, the last of these the data.
    """
    d_x, d_output = conversion(predicts, "x0", grid.starts)
    columns["d_x"][0], columns["d_output"][0] = d_x[0], d_output[0]
    ratio = grid.sigma[1] / grid.sigma[0]
    columns["x"][0], columns["d"][0] = ratio, grid.alpha[1] - ratio * grid.alpha[0]
    if grid.steps == 1:
        return
    u, v = 1.0 / grid.sigma[1], np.array([-grid.alpha[1] / grid.sigma[1]])
    for step in range(1, min(order, grid.steps)):
        weight = columns[f"h{step}"][step]  # of the first noise, the oldest estimate so far
        columns[f"h{step}"][step] = 0.0
        columns["x"][step] += weight * u
        for age, part in enumerate(v, 1):
            columns[f"h{age}"][step] += weight * part
        # The previous state, from the one that this step produces.
        x = columns["x"][step]
        past = np.array([columns["d"][step], *(columns[f"h{age}"][step] for age in range(1, step + 1))])
        u, v = u / x, np.array([0.0, *v]) - u / x * past


__all__ = ["deis", "ipndm"]
