"""DDIM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.posterior import posterior
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import Ancestral
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.table import LINEAR, Table


class Ddim(Ancestral):
    """Denoising diffusion implicit models (Song et al. 2021)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ddim", "steps": 4, "guidance": {"scale": 2.0, "channels": 1}}

    kind: Literal["ddim"]
    eta: float = Field(0.0, ge=0, le=1, description="share of DDPM's noise: 0 none (deterministic), 1 all of it")

    def table(self, target: Parameterization) -> Table:
        return replace(ddim(self.grid(target), target.predicts, self.eta, self.clip), clip_state=self.clip_state)


def ddim(grid: Grid, predicts: Prediction, eta: float = 0.0, clip: float | None = None) -> Table:
    """DDIM (Song et al. 2021, equation 12): deterministic at `eta` 0, DDPM's posterior variance at 1.

    The estimate is x0; the noise follows from x and the (clipped) estimate. At eta 0 it is the first-order
    exponential integrator.
    """
    columns = grid.evaluation(predicts, "x0")
    alpha, sigma, alpha_next, direction = grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:]
    if eta > 0.0:
        added = eta * np.sqrt(posterior(grid.starts, grid.ends).variance)
        direction = np.sqrt(np.maximum(direction**2 - added**2, 0.0))
        columns["noise"] = added
    columns["x"] = direction / sigma
    columns["d"] = alpha_next - direction * alpha / sigma
    return Table("ddim", LINEAR, columns, clip=clip, prior=grid.prior)


__all__ = ["Ddim", "ddim"]
