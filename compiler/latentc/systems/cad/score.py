"""A score of how well the other conditions describe a sample: the coherence of coherence-aware diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form
from latentc.components.conditions.array import ArrayCondition
from latentc.components.conditions.timestep import Timestep
from latentc.ir.builder import Builder, Var
from latentc.systems.rin.standardized import standardized_embedder


class Score(ArrayCondition):
    """A score per sample from 0, where the other conditions are meaningless, to 1 (Dufour et al. 2024,
    arXiv:2405.20324). Networks learn the meaning of 0 without condition dropout, so guidance can use it: it then
    points from the prediction at coherence 0 to that at 1 for the same prompt.
    """

    kind: Literal["score"]
    default: float | None = Field(1.0, ge=0, le=1, description="default score for requests")
    scale: float = Field(1000.0, gt=0, le=1e6, description="factor of the score before the sinusoids")
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens", "array")
    RANKS: ClassVar[tuple[int, ...]] = (0,)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "score"}

    @property
    def nullable(self) -> bool:
        return True

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        features = Timestep(kind="timestep", frequencies=max(int(width) // 4, 4) // 2 * 2)
        return b.sub(
            prefix, standardized_embedder(features, self.scale), operands[0], dim=width, **features.static(), out=name
        )
