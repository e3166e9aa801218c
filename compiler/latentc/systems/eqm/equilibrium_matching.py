"""Flow matching whose targets shrink to nothing at the data.

Symbols: B batch; x0 the data, sigma the noise level along the path.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.kit import per_sample_mean
from latentc.components.objectives.denoising import Noised, Terms
from latentc.components.objectives.flow import Flow
from latentc.ir.builder import Var


class EquilibriumMatching(Flow):
    """Equilibrium matching (Wang and Du 2025, arXiv:2510.02300): the target is c (x0 - noise), c = `scale` times
    min(1, sigma / `decay`).
    """

    kind: Literal["equilibrium_matching"]  # type: ignore[assignment]
    scale: float = Field(4.0, gt=0, le=1_000, description="c, the size of the target, far from the data")
    decay: float = Field(0.2, gt=0, le=1, description="noise level below which the target shrinks to 0 at the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "equilibrium_matching"}

    def says(self) -> str:
        return "The squared error of the gradient, one value per sample."

    def loss(self, at: Noised, prediction: Var) -> Terms:
        b = at.b
        size = b.minimum(at.point.sigma * (self.scale / self.decay), self.scale, out="c")
        error = b.op("sub", prediction, size * at.truth, out="error")
        return {"loss": per_sample_mean(b, error * error, out="loss")}
