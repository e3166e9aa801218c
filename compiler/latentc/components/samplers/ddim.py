"""DDIM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.parts import Applies
from latentc.components.processes.posterior import posterior
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers._ancestral import Ancestral
from latentc.components.samplers._thresholds import Bound, bounded
from latentc.components.samplers.base import Final, spaced
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, Body, Step, Table
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var


class Ddim(Ancestral):
    """Denoising diffusion implicit models (Song et al. 2021)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ddim", "steps": 4, "guidance": {"scale": 2.0, "channels": 1}}

    kind: Literal["ddim"]
    eta: float = Field(0.0, ge=0, le=1, description="fraction of DDPM's noise: 0 is deterministic, 1 all of it")

    final: Final = Field("zero", description="end of the last step: the data, or the lowest noise level")

    APPLIES: ClassVar[Applies] = {"noise_of_clipped": ("clip", None)}

    noise_of_clipped: bool = Field(
        True,
        description="with `clip`: recompute the noise of a step from the clipped estimate (ADM); false: use the "
        "network's own (diffusers' default)",
    )

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        return spaced(process, "trailing") if process.ODE == "level" else []

    def interval(self, target: Parameterization) -> Interval:
        covered = super().interval(target)
        if self.final == "zero" or covered.closing is None:
            return covered
        return replace(covered, closing=target.process.last)

    def table(self, target: Parameterization) -> Table:
        return replace(
            ddim(self.grid(target), target.predicts, self.eta, self.bound, self.noise_of_clipped),
            clip_state=self.clip_state,
        )


def ddim(
    grid: Grid,
    predicts: Prediction,
    eta: float = 0.0,
    clip: Bound | None = None,
    noise_of_clipped: bool = True,
) -> Table:
    """DDIM (Song et al. 2021, equation 12): deterministic at `eta` 0, DDPM's posterior variance at 1.

    The estimate is x0; the noise follows from x and the estimate, clipped if `noise_of_clipped`. At eta 0 it is the
    first-order exponential integrator.
    """
    columns = grid.evaluation(predicts, "x0")
    alpha, sigma, alpha_next, direction = grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:]
    if eta > 0.0:
        added = eta * np.sqrt(posterior(grid.starts, grid.ends).variance)
        direction = np.sqrt(np.maximum(direction**2 - added**2, 0.0))
        columns["noise"] = added
    columns["x"] = direction / sigma
    columns["d"] = alpha_next - direction * alpha / sigma
    if clip is not None and not noise_of_clipped:
        columns |= {"d": alpha_next, "unclipped": -direction * alpha / sigma}
        return Table("ddim", UNCLIPPED_NOISE, columns, clip=clip, prior=grid.prior)
    return Table("ddim", LINEAR, columns, clip=clip, prior=grid.prior)


def _unclipped_noise(b: Builder, step: Step) -> tuple[Var, ...]:
    (x,), row = step.state, step.row
    assert step.clip is not None
    d = replace(step, clip=None).estimate(b, x, step.evaluate(x, 0))
    clipped = bounded(b, d, step.clip, "clipped")
    terms = (row["x"], x), (row["d"], clipped), (row["unclipped"], d)
    return (weighted_sum(b, "x", *terms, *step.noise()),)


UNCLIPPED_NOISE = Body(_unclipped_noise)
"""``x' = x * x + d * clip(d) + unclipped * d + noise * z``."""

__all__ = ["UNCLIPPED_NOISE", "Ddim", "ddim"]
