"""The logistic loss."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._score import ScoreTerm
from latentc.ir.builder import Builder, Var


class NonSaturating(ScoreTerm):
    """Logistic loss; the generator maximises the log-probability of data (Goodfellow et al. 2014, arXiv:1406.2661)."""

    kind: Literal["non_saturating"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "non_saturating"}

    def of_real(self, b: Builder, score: Var) -> Var:
        return b.softplus(-score)  # type: ignore[no-any-return]

    def of_fake(self, b: Builder, score: Var) -> Var:
        return b.softplus(score)  # type: ignore[no-any-return]

    def of_made(self, b: Builder, score: Var) -> Var:
        return b.softplus(-score)  # type: ignore[no-any-return]


__all__ = ["NonSaturating"]
