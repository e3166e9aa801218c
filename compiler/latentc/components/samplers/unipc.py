"""UniPC."""

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
from latentc.components.samplers.table import Body, Step, Table
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var

BFunction = Literal["bh1", "bh2"]


class Unipc(Multistep):
    """UniPC multistep: a predictor and a corrector that needs no extra evaluation (Zhao et al. 2023)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "unipc",
        "steps": 5,
        "order": 3,
        "guidance": {"scale": 2.0, "interval": [0.2, 0.7]},
    }

    REFERENCE: ClassVar[bool] = True

    kind: Literal["unipc"]
    b_function: BFunction = Field("bh2", description="the paper's B(h): h (bh1) or exp(h) - 1 (bh2)")
    predict_x0: bool = Field(True, description="extrapolate the data; false: the noise, ending at sigma_min")
    corrector: bool = Field(True, description="correct each state once its evaluation is known")

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        steps = script.function(
            unipc_steps,
            b_function=self.b_function,
            predict_x0=self.predict_x0,
            lower_order_final=self.lower_order_final,
            corrector=self.corrector,
        )
        evaluated = script.evaluation("x0" if self.predict_x0 else "noise")
        script.loop(f"{evaluated}(t[:-1])", f"{steps}(alpha, sigma, order={self.order})")

    def table(self, target: Parameterization) -> Table:
        return unipc(
            self.grid(target),
            target.predicts,
            self.order,
            self.b_function,
            self.predict_x0,
            self.lower_order_final,
            self.corrector,
            self.clip,
        )


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
        raise ValueError("clipping needs estimates of x0: set predict_x0")
    if not predict_x0 and grid.sigma[-1] == 0.0:
        raise ValueError("UniPC on noise estimates cannot step to sigma = 0: end at sigma_min")
    with np.errstate(divide="ignore"):
        steps = unipc_steps(grid.alpha, grid.sigma, order, b_function, predict_x0, lower_order_final, corrector)
    columns = {**grid.evaluation(predicts, "x0" if predict_x0 else "noise"), **steps}
    return Table("unipc", PREDICTOR_CORRECTOR, columns, history=order, clip=clip, prior=grid.prior)


def unipc_steps(
    alpha: Array,
    sigma: Array,
    order: int,
    b_function: str,
    predict_x0: bool,
    lower_order_final: bool,
    corrector: bool,
) -> dict[str, Array]:
    """UniPC (Zhao et al. 2023): coefficients of the predictor, and (c_) of the corrector of the state before it."""
    steps = len(alpha) - 1
    names = ("x", "d", *history_names(order), "c_x", "c_last", "c_d", *(f"c_h{i}" for i in range(1, order + 1)))
    columns = {name: np.zeros(steps) for name in names}
    orders = []
    for step in range(steps):
        now = min(order, step + 1)
        if lower_order_final:
            now = min(now, steps - step)
        orders.append(1 if sigma[step + 1] == 0.0 else now)
    for step, now in enumerate(orders):
        x, weights = unipc_weights(alpha, sigma, step, now, b_function, predict_x0, corrected=False)
        columns["x"][step] = x
        for name, weight in zip(("d", *history_names(order)), weights, strict=False):
            columns[name][step] = weight
        if step == 0 or not corrector:
            columns["c_x"][step] = 1.0
            continue
        last, weights = unipc_weights(alpha, sigma, step - 1, orders[step - 1], b_function, predict_x0, corrected=True)
        columns["c_last"][step] = last
        for index, weight in enumerate(weights):
            columns["c_d" if index == 0 else f"c_h{index}"][step] = weight
    return columns


def unipc_weights(
    alphas: Array, sigmas: Array, step: int, order: int, b_function: str, predict_x0: bool, corrected: bool
) -> tuple[float, list[float]]:
    """The coefficient of the state, and of the estimates newest first: at the step's end (corrected), at its
    start …

    The polynomial's weights solve a small linear system in the nodes' relative positions (equation 9 with
    B(h) of section 3.1); orders 1 and 2 have 1/2 in its place, as the authors' code.
    """
    alpha, sigma, alpha_next, sigma_next = alphas[step], sigmas[step], alphas[step + 1], sigmas[step + 1]
    if predict_x0:
        keep, scale = sigma_next / sigma, alpha_next
        first = alpha_next - alpha * sigma_next / sigma  # alpha' (1 - e^-h), finite at sigma' = 0
    else:
        keep, scale = alpha_next / alpha, sigma_next
        first = sigma_next - sigma * alpha_next / alpha  # sigma' (1 - e^h)
    if order == 1 and not corrected:
        return keep, [first]
    h = log_steps(np.log(alphas) - np.log(sigmas), step, order)
    signed = -h[0] if predict_x0 else h[0]
    nodes = np.append(-np.cumsum(h[1:]) / h[0], 1.0)  # positions of the earlier estimates and of the step's end
    rhos = unipc_rhos(nodes, signed, b_function, corrected)
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


def unipc_rhos(nodes: Array, signed: float, b_function: str, corrected: bool) -> Array:
    """The weights of the differences between estimates."""
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


def _predictor_corrector(b: Builder, step: Step) -> tuple[Var, ...]:
    (x, last, *past), row = step.state, step.row
    d = step.estimate(b, x, step.evaluate(x, 0))
    terms = [(row["c_x"], x), (row["c_last"], last), (row["c_d"], d)]
    c = weighted_sum(b, "last", *terms, *step.history(past, "c_h"))
    new = weighted_sum(b, "x", (row["x"], c), (row["d"], d), *step.history(past))
    return (new, c, *[d, *past][: len(past)])


PREDICTOR_CORRECTOR = Body(_predictor_corrector, corrects=True)
"""Carries `last`, the corrected state of the step before (at first: x). With d the estimate at x:
``c = c_x * x + c_last * last + c_d * d + c_h1 * h1 + …; x' = x * c + d * d + h1 * h1 + …; last' = c``."""
