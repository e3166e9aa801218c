"""Multistep sampling with a consistency function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization, consistency_function
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, Table


class Consistency(ArraySampler):
    """Jumps from noise to the end of a trajectory, adds less noise, and jumps again (Song et al. 2023,
    arXiv:2303.01469, algorithm 1)."""

    kind: Literal["consistency"]
    steps: int = Field(2, gt=0, le=100_000, description="number of network evaluations")
    subtract_least: bool = Field(
        True,
        description="the added noise excludes the smallest noise level, which trajectory ends already have (Song et "
        "al. 2023); false: the full level is added (latent consistency models)",
    )
    clip: float | None = Field(
        None, gt=0, description="bound of the ends of trajectories, 1 in the authors' code for images; null: none"
    )
    SPACING: ClassVar[str] = "trailing"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "consistency", "steps": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        objective = spec.objective
        target = objective.parameterization() if objective is not None else None
        if objective is not None and target is not None and target.boundary is None:
            message = (
                "`consistency` needs a network trained to jump to the end of a trajectory, but "
                f"`{objective.kind}` trains none"
            )
            mend = "use the objective `consistency_distillation` or `consistency_training`, or the sampler `ddim`"
            yield Problem(("kind",), message, mend)
        else:
            yield from super().problems(spec)

    def interval(self, target: Parameterization) -> Interval:
        return consistent_interval(target)

    def table(self, target: Parameterization) -> Table:
        """ValueError: times or conversions that do not exist."""
        if target.boundary is None:
            raise ValueError("`consistency` needs a network trained by a consistency objective")
        grid = self.grid(target)
        skip, out = target.boundary.coefficients(grid.starts)
        columns = grid.evaluation(target.predicts, "x0")
        columns["d_x"] = skip + out * columns["d_x"]
        columns |= {name: out * columns[name] for name in ("d_output", "d_guide")}
        columns |= consistency_steps(grid.alpha, grid.sigma, target.boundary.least, self.subtract_least)
        if grid.steps == 1:
            del columns["noise"]
        return Table(self.kind, LINEAR, columns, clip=self.clip, prior=grid.prior)

    def write(self, script: Script) -> None:
        boundary, sources = script.target.boundary, script.sources
        assert boundary is not None
        self.write_grid(script)
        script.start()
        least = sources.constant("LEAST_LEVEL", boundary.least)
        given = f"alpha[:-1], sigma[:-1], {least}, {sources.constant('DATA_STD', boundary.data_std)}"
        script.line(f"columns = {script.evaluation('x0')}(t[:-1])")
        script.line(f"skip, out = {script.function(consistency_function)}({given})")
        of_data = script.target.predicts == "x0"
        ends = "skip, out" if of_data else 'skip + out * columns["c_skip"], out * columns["c_out"]'
        script.line(f'columns["c_skip"], columns["c_out"] = {ends}')
        steps = script.function(consistency_steps, subtract_least=self.subtract_least)
        script.loop("columns", f"{steps}(alpha, sigma, {least})")


def consistent_interval(target: Parameterization) -> Interval:
    """The times of trajectories: from noise to where their noise level is least."""
    assert target.boundary is not None
    process = target.process
    stop = float(process.time_of_level(target.boundary.least))
    return Interval(process.first, stop)


def consistency_steps(alpha: Array, sigma: Array, least: float, subtract_least: bool) -> dict[str, Array]:
    """x' = alpha' f(x) + sigma' z: coefficients of the trajectory's end (d) and of new noise; the last end alone."""
    scale, added = alpha[1:].copy(), sigma[1:].copy()
    if subtract_least:
        added = np.sqrt(np.maximum(added**2 - (scale * least) ** 2, 0.0))
    scale[-1], added[-1] = 1.0, 0.0
    return {"x": np.zeros_like(scale), "d": scale, "noise": added}
