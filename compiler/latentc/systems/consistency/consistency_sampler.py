"""Multistep sampling with a consistency function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.parts import Problem
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, Table

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


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
        return consistency(self, target)


def consistent_interval(target: Parameterization) -> Interval:
    """The times of trajectories: from noise to where their noise level is least."""
    assert target.boundary is not None
    process = target.process
    stop = float(process.time_of_level(target.boundary.least))
    return Interval(process.first, stop)


def consistency(sampler: Consistency, target: Parameterization) -> Table:
    """x' = alpha' f(x) + sigma' z, the last f(x) alone.

    ValueError: times or conversions that do not exist.
    """
    if target.boundary is None:
        raise ValueError("`consistency` needs a network trained by a consistency objective")
    grid = sampler.grid(target)
    point, following = grid.starts, grid.ends
    skip, out = target.boundary.coefficients(point)
    columns = grid.evaluation(target.predicts, "x0")
    columns["d_x"] = skip + out * columns["d_x"]
    columns |= {name: out * columns[name] for name in ("d_output", "d_guide")}
    alpha, sigma = np.array(following.alpha), np.array(following.sigma)
    if sampler.subtract_least:
        sigma = np.sqrt(np.maximum(sigma**2 - (alpha * target.boundary.least) ** 2, 0.0))
    alpha[-1], sigma[-1] = 1.0, 0.0
    columns |= {"x": np.zeros(grid.steps), "d": alpha}
    if grid.steps > 1:
        columns["noise"] = sigma
    return Table(sampler.kind, LINEAR, columns, clip=sampler.clip, prior=grid.prior)


__all__ = ["Consistency", "consistency", "consistent_interval"]
