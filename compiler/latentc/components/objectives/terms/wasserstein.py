"""The Wasserstein loss."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._score import ScoreTerm
from latentc.ir.builder import Builder, Var


class Wasserstein(ScoreTerm):
    """The difference of the mean scores (Arjovsky et al. 2017, arXiv:1701.07875); use it with a gradient penalty."""

    kind: Literal["wasserstein"]
    THRESHOLD: ClassVar[float | None] = None
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "wasserstein"}

    def of_real(self, b: Builder, score: Var) -> Var:
        return -score

    def of_fake(self, b: Builder, score: Var) -> Var:
        return score

    def of_made(self, b: Builder, score: Var) -> Var:
        return -score
