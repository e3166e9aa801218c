"""The least-squares loss."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._score import ScoreTerm
from latentc.ir.builder import Builder, Var


class LeastSquares(ScoreTerm):
    """Half the squared distance to 1 for data and to 0 for samples (Mao et al. 2017, arXiv:1611.04076)."""

    kind: Literal["least_squares"]
    THRESHOLD: ClassVar[float | None] = 0.5
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "least_squares"}

    def of_real(self, b: Builder, score: Var) -> Var:
        return 0.5 * (score - 1.0) * (score - 1.0)

    def of_fake(self, b: Builder, score: Var) -> Var:
        return 0.5 * score * score

    def of_made(self, b: Builder, score: Var) -> Var:
        return 0.5 * (score - 1.0) * (score - 1.0)
