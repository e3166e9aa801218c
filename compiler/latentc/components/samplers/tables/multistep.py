"""Tables of the multistep solvers in log signal-to-noise: DPM-Solver++ and UniPC.

Both integrate the probability-flow equation exactly in its linear part over lambda = log(alpha / sigma) and
approximate the network by a polynomial through earlier estimates. A step of size h = lambda' - lambda is
linear in the state and those estimates, so all of it is coefficients. They hold for any (alpha, sigma):
schedules and paths.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from latentc.components.prediction import Prediction, conversion
from latentc.components.samplers.tables.core import Array, Table
from latentc.components.samplers.tables.grids import Grid

SolverType = Literal["midpoint", "heun"]
BFunction = Literal["bh1", "bh2"]


def dpm_solver_pp(
    grid: Grid,
    predicts: Prediction,
    order: int = 2,
    solver_type: SolverType = "midpoint",
    lower_order_final: bool = True,
    clip: float | None = None,
) -> Table:
    """DPM-Solver++ multistep, `order` 1 to 3 (Lu et al. 2022, algorithm 2 and appendix; data prediction).

    `solver_type` is the second order's variant. The order is at most the number of estimates there are; with
    `lower_order_final` the last steps of fewer than 15 go down to 1, and a step to sigma = 0, where h is
    infinite, is always of first order (it is the estimate itself).
    """
    if order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver++ has orders 1, 2 and 3, not {order}")
    d_x, d_output = conversion(predicts, "x0", grid.evaluated)
    columns = {name: np.zeros(grid.steps) for name in ("x", "d", *_names(order))}
    for step in range(grid.steps):
        left = grid.steps - step
        now = min(order, step + 1)
        if lower_order_final and grid.steps < 15:
            now = min(now, left)
        now = 1 if grid.sigma[step + 1] == 0.0 else now
        columns["x"][step] = grid.sigma[step + 1] / grid.sigma[step]
        weights = _dpm_weights(grid, step, now, solver_type)
        for name, weight in zip(("d", *_names(order)), weights, strict=False):
            columns[name][step] = weight
    columns = {"t": grid.t, "d_x": d_x, "d_output": d_output, **columns}
    return Table("dpm_solver_pp", "linear", columns, history=order - 1, clip=clip)


def _names(order: int) -> tuple[str, ...]:
    return tuple(f"h{i}" for i in range(1, order))


def _dpm_weights(grid: Grid, step: int, order: int, solver_type: SolverType) -> list[float]:
    """Coefficients of the current estimate and of the earlier ones, newest first."""
    alpha_next = grid.alpha[step + 1]
    if order == 1:
        # alpha' (1 - e^-h), in a form that is finite at sigma' = 0 (h infinite) and at alpha = 0
        return [alpha_next - grid.alpha[step] * grid.sigma[step + 1] / grid.sigma[step]]
    h = _log_steps(grid, step, order)
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


def _log_steps(grid: Grid, step: int, count: int) -> Array:
    """The sizes in lambda of this step and of the count - 1 before it, newest first."""
    log_snr = grid.log_snr
    if not np.all(np.isfinite(log_snr[step - count + 1 : step + 2])):
        raise ValueError("a multistep solver of order 2 or more needs 0 < alpha and 0 < sigma: start the path later")
    return np.diff(log_snr)[step - count + 1 : step + 1][::-1]


def unipc(
    grid: Grid,
    predicts: Prediction,
    order: int = 2,
    b_function: BFunction = "bh2",
    predict_x0: bool = True,
    lower_order_final: bool = True,
    corrector: bool = True,
    clip: float | None = None,
) -> Table:
    """UniPC multistep, predictor and corrector of `order` 1 to 3 (Zhao et al. 2023, algorithms 1 and 2).

    Estimates are x0 (`predict_x0`) or noise. Each step first corrects the state that the step before
    predicted, at no further evaluation, then predicts; the last prediction is not corrected. A step to sigma
    = 0 is of first order. `corrector` False leaves the predictor alone.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"UniPC has orders 1, 2 and 3 here, not {order}")
    if clip is not None and not predict_x0:
        raise ValueError("clipping needs estimates of the data: predict_x0")
    if not predict_x0 and grid.sigma[-1] == 0.0:
        raise ValueError("UniPC on noise estimates cannot step to sigma 0: end at sigma_min")
    d_x, d_output = conversion(predicts, "x0" if predict_x0 else "noise", grid.evaluated)
    names = ("x", "d", *_names(order), "c_x", "c_last", "c_d", *(f"c_h{i}" for i in range(1, order + 1)))
    columns = {name: np.zeros(grid.steps) for name in names}
    orders = []
    for step in range(grid.steps):
        now = min(order, step + 1)
        if lower_order_final:
            now = min(now, grid.steps - step)
        orders.append(1 if grid.sigma[step + 1] == 0.0 else now)
    for step, now in enumerate(orders):
        x, weights = _uni_step(grid, step, now, b_function, predict_x0, corrected=False)
        columns["x"][step] = x
        for name, weight in zip(("d", *_names(order)), weights, strict=False):
            columns[name][step] = weight
        if step == 0 or not corrector:
            columns["c_x"][step] = 1.0
            continue
        last, weights = _uni_step(grid, step - 1, orders[step - 1], b_function, predict_x0, corrected=True)
        columns["c_last"][step] = last
        for index, weight in enumerate(weights):
            columns["c_d" if index == 0 else f"c_h{index}"][step] = weight
    columns = {"t": grid.t, "d_x": d_x, "d_output": d_output, **columns}
    return Table("unipc", "predictor_corrector", columns, history=order, clip=clip)


def _uni_step(
    grid: Grid, step: int, order: int, b_function: BFunction, predict_x0: bool, corrected: bool
) -> tuple[float, list[float]]:
    """The coefficient of the state, and of the estimates newest first: at the step's end (corrected), at its
    start …

    The polynomial's weights solve a small linear system in the nodes' relative positions (equation 9 with
    B(h) of section 3.1); orders 1 and 2 have 1/2 in its place, as the authors' code.
    """
    alpha, sigma = grid.alpha[step], grid.sigma[step]
    alpha_next, sigma_next = grid.alpha[step + 1], grid.sigma[step + 1]
    if predict_x0:
        keep, scale = sigma_next / sigma, alpha_next
        first = alpha_next - alpha * sigma_next / sigma  # alpha' (1 - e^-h), finite at sigma' = 0
    else:
        keep, scale = alpha_next / alpha, sigma_next
        first = sigma_next - sigma * alpha_next / alpha  # sigma' (1 - e^h)
    if order == 1 and not corrected:
        return keep, [first]
    h = _log_steps(grid, step, order)
    signed = -h[0] if predict_x0 else h[0]
    nodes = np.append(-np.cumsum(h[1:]) / h[0], 1.0)  # positions of the earlier estimates and of the step's end
    rhos = _rhos(nodes, signed, b_function, corrected)
    b_of_h = signed if b_function == "bh1" else math.expm1(signed)
    weights = [first]  # of the estimate at the step's start; then the earlier ones
    for rho, node in zip(rhos, nodes[: order - 1], strict=False):
        term = scale * b_of_h * rho / node
        weights[0] += term
        weights.append(-term)
    if corrected:
        term = scale * b_of_h * rhos[-1]
        weights[0] += term
        weights.insert(0, -term)
    return keep, weights


def _rhos(nodes: Array, signed: float, b_function: BFunction, corrected: bool) -> Array:
    order = len(nodes)
    if corrected and order == 1:
        return np.array([0.5])
    if not corrected and order == 2:
        return np.array([0.5])
    b_of_h = signed if b_function == "bh1" else math.expm1(signed)
    phi, factorial, right = math.expm1(signed) / signed - 1.0, 1, []
    for index in range(1, order + 1):
        right.append(phi * factorial / b_of_h)
        factorial *= index + 1
        phi = phi / signed - 1.0 / factorial
    matrix = np.vander(nodes, order, increasing=True).T
    count = order if corrected else order - 1
    return np.linalg.solve(matrix[:count, :count], np.array(right[:count]))
