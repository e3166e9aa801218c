"""The probability-flow equation by explicit Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.parts import Spec
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization
from latentc.components.samplers._adaptive import TABLEAU
from latentc.components.samplers._likelihood import Likelihood
from latentc.components.samplers.base import ArraySampler, continuous_interval, parameterization_of
from latentc.components.samplers.grid import evaluation
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import Body, Step, Table
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.score_sde.reverse_diffusion import denoising, write_denoising


class ProbabilityFlow(ArraySampler):
    """Integrates the probability flow over the process's time, with a Runge-Kutta method in fixed steps.

    Song et al. 2021 (arXiv:2011.13456) use the Dormand-Prince method with adaptive steps; the same steps given as
    `timesteps` have the same result.
    """

    kind: Literal["probability_flow"]
    steps: int = Field(50, gt=0, le=100_000, description="number of integrator steps")
    method: Literal["rk4", "dopri5"] = Field(
        "rk4",
        description="the classical fourth-order method, 4 evaluations per step, or Dormand–Prince of order 5, 6 "
        "per step",
    )
    denoise: int | None = Field(
        None,
        gt=1,
        le=100_000,
        description="final noiseless step of reverse diffusion, as one of this many (the authors: 1000); null: none",
    )
    likelihood: Likelihood | None = Field(None, description="add the program `log_likelihood`; null: none")
    PROGRAMS: ClassVar[tuple[str, ...]] = (*ArraySampler.PROGRAMS, "likelihood")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "probability_flow",
        "steps": 2,
        "denoise": 1000,
        "likelihood": {"steps": 2},
    }

    def interval(self, target: Parameterization) -> Interval:
        return continuous_interval(target, self.kind)

    def table(self, target: Parameterization) -> Table:
        grid, stages = self.grid(target), TABLEAUS[self.method]
        times, columns = runge_kutta(grid.times, stages)
        columns = evaluation(target.process, times, target.predicts, "flow_velocity") | columns
        tail = None if self.denoise is None else denoising(target, float(grid.times[-1]), self.denoise)
        more: dict[str, Any] = {"history": len(stages) - 1, "prior": grid.prior, "tail": tail}
        return Table(self.kind, RUNGE_KUTTA, columns, **more, substeps=len(stages))

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        tableau = script.sources.constant("TABLEAU", TABLEAUS[self.method])  # type: ignore[arg-type]
        script.line(f"times, columns = {script.function(runge_kutta)}(t, {tableau})")
        script.loop(f"{script.evaluation('flow_velocity')}(times)", "columns")
        if self.denoise is not None:
            write_denoising(script, self.denoise)

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        target = parameterization_of(spec.objective)
        assert target is not None
        further = () if self.likelihood is None else self.likelihood.programs(mb, networks, spec, target)
        return (*super().programs(mb, networks, spec), *further)


TABLEAUS: dict[str, tuple[tuple[float, ...], ...]] = {
    "rk4": ((1 / 2,), (0, 1 / 2), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": TABLEAU,
}
"""Rows of the methods' tableaus: the share of each earlier slope in the next stage, and last in the end of the step."""


def runge_kutta(t: Array, tableau: tuple) -> tuple[Array, dict[str, Array]]:  # type: ignore[type-arg]
    """The times of all stages, and their coefficients: of a stage's slope (d) and of those before it (h1, …)."""
    size, count = np.diff(t), len(tableau)
    places = np.array([0.0, *(sum(row) for row in tableau[:-1])])
    shares = np.zeros((count, count))
    for i, row in enumerate(tableau):
        shares[i, : i + 1] = row[::-1]
    weights = (size[:, None, None] * shares).reshape(-1, count)
    last = np.tile(np.arange(count) == count - 1, len(size)).astype(np.float64)
    columns = {"d": weights[:, 0], **{f"h{i}": weights[:, i] for i in range(1, count)}, "end": last, "kept": 1.0 - last}
    return (t[:-1, None] + size[:, None] * places).ravel(), columns


def _runge_kutta(b: Builder, step: Step) -> tuple[Var, ...]:
    (y, base, *past), row = step.state, step.row
    d = step.estimate(b, y, step.evaluate(y, 0))
    y = weighted_sum(b, "x", (1.0, base), (row["d"], d), *step.history(past))
    base = weighted_sum(b, "base", (row["kept"], base), (row["end"], y))
    return y, base, *[d, *past][: len(past)]


RUNGE_KUTTA = Body(_runge_kutta, corrects=True)
"""A stage per row, of the state, the start of the step and the slopes before:
``x' = last + d * d(x) + h1 * h1 + …; last' = kept * last + end * x'``."""
