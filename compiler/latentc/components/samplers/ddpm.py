"""DDPM's ancestral sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction, posterior, posterior_terms
from latentc.components.processes.process import Parameterization, Variance
from latentc.components.samplers.base import parameterization_of
from latentc.components.samplers.ddim import Ancestral
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Body, Bound, Step, Table
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var


class Ddpm(Ancestral):
    """Ancestral sampling (Ho et al. 2020), optionally on fewer timesteps as in improved DDPM (Nichol and Dhariwal
    2021).
    """

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ddpm", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["ddpm"]
    steps: int = Field(250, gt=0, le=100_000, description="number of timesteps of the chain")
    variance: Variance | None = Field(
        None,
        description="variance of a step: the posterior's (fixed_small), beta (fixed_large), the network's; null: the "
        "objective's",
    )
    final_noise: bool = Field(
        False,
        description="add the noise of `fixed_large` in the last step too, as coherence-aware diffusion's authors do",
    )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        target = parameterization_of(spec.objective)
        if self.final_noise and (self.variance or (target and target.variance)) != "fixed_large":
            message = "the last step has noise only if its variance is that of the forward step"
            yield Problem(("final_noise",), message, "set `variance: fixed_large`, or leave `final_noise` out")

    def table(self, target: Parameterization) -> Table:
        variance = self.variance or target.variance
        if variance == "learned_range" and target.variance != "learned_range":
            raise ValueError("the objective learns no variance: choose fixed_small or fixed_large")
        return ddpm(self.grid(target), target.predicts, variance, self.bound, self.final_noise)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        variance = self.variance or script.target.variance
        step = script.function(ddpm_step, variance=variance, final_noise=self.final_noise)
        script.loop(f"{script.evaluation('x0')}(t[:-1])", f"{step}(alpha, sigma)")


def ddpm(
    grid: Grid,
    predicts: Prediction,
    variance: Variance = "fixed_small",
    clip: Bound | None = None,
    final_noise: bool = False,
) -> Table:
    """Ancestral sampling (Ho et al. 2020, equations 6 and 7, on the grid's own coarser chain).

    The estimate is x0. `variance` of a step: the posterior's (`fixed_small`), that of the coarse chain's forward step
    (`fixed_large`, beta), or between the two by the network's second half of channels, interpolated in the logarithm
    (`learned_range`; improved DDPM, Nichol and Dhariwal 2021, equation 15). The last step takes no noise,
    unless `final_noise`.

    ValueError: a conversion that does not exist.
    """
    columns = grid.evaluation(predicts, "x0") | ddpm_step(grid.alpha, grid.sigma, variance, final_noise)
    if variance == "learned_range":
        del columns["d_guide"]  # applied in the body: the gradient times the step's variance is added to the mean
        return Table("ddpm", LEARNED_VARIANCE, columns, clip=clip, prior=grid.prior)
    step = posterior(grid.starts, grid.ends)
    spread = step.variance if variance == "fixed_small" else step.added
    # The gradient times the variance is added to the mean; a step that removes no noise has neither.
    columns["d_guide"] = np.divide(spread, step.coef1, out=np.zeros(grid.steps), where=step.coef1 != 0)
    return Table("ddpm", LINEAR, columns, clip=clip, prior=grid.prior)


def ddpm_step(alpha: Array, sigma: Array, variance: str, final_noise: bool) -> dict[str, Array]:
    """Ancestral sampling (Ho et al. 2020, equations 6 and 7): coefficients of x, of the data (d) and of new noise."""
    coef1, coef2, posterior_variance, beta = posterior_terms(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])
    noise = np.ones_like(beta)
    if not final_noise:
        noise[-1] = 0.0
    columns = {"x": coef2, "d": coef1}
    if variance == "learned_range":
        # The last posterior variance is 0, so its logarithm is taken from the step before (improved DDPM); no noise is
        # added there, so a single-step chain may use any finite value.
        floor = posterior_variance[-2] if len(beta) > 1 else beta[-1]
        low, high = np.log(np.append(posterior_variance[:-1], floor)), np.log(beta)
        # halves of the log variance, which are log standard deviations
        return columns | {"noise": noise, "log_center": (high + low) / 4, "log_span": (high - low) / 4}
    if variance == "fixed_small":
        return columns | {"noise": noise * np.sqrt(posterior_variance)}
    return columns | {"noise": noise * np.sqrt(beta)}


def _learned_variance(b: Builder, step: Step) -> tuple[Var, ...]:
    (x,), row, c = step.state, step.row, step.channels
    output, v = b.split(step.evaluate(x, 0), axis=1, sizes=(c, c), out="output v")
    d = step.estimate(b, x, output)
    log_deviation = b.add(row["log_center"], b.mul(row["log_span"], v, out="term"), out="log_deviation")
    assert step.z is not None  # the table is stochastic
    deviation = b.exp(log_deviation, out="deviation")
    terms = [(row["x"], x), (row["d"], d), (row["noise"], b.mul(deviation, step.z, out="z"))]
    if step.slope is not None:
        terms.append((1.0, b.mul(b.mul(deviation, deviation), step.slope(x, 0), out="guide")))
    return (weighted_sum(b, "x", *terms),)


LEARNED_VARIANCE = Body(_learned_variance, variance=True)
"""``x' = x * x + d * d + noise * exp(log_center + log_span * v) * z``: v = -1 and 1 are the variance's bounds."""
