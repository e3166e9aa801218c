"""The hinge loss."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._score import ScoreTerm
from latentc.ir.builder import Builder, Var


class Hinge(ScoreTerm):
    """max(0, 1 - s) for data, max(0, 1 + s) for samples; -s for the generator (Lim and Ye 2017, arXiv:1705.02894)."""

    kind: Literal["hinge"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "hinge"}

    def of_real(self, b: Builder, score: Var) -> Var:
        return b.relu(1.0 - score)

    def of_fake(self, b: Builder, score: Var) -> Var:
        return b.relu(1.0 + score)

    def of_made(self, b: Builder, score: Var) -> Var:
        return -score
