"""Base class of auxiliary-classifier terms."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from latentc.components.objectives.terms._term import Term, mean
from latentc.ir.builder import Builder, Var


class ClassifierTerm(Term):
    """Cross-entropies of a head of the discriminator, in nats."""

    generator_weight: float | None = Field(
        None, ge=0, description="weight in the generator's loss; null: `weight`, 0: only in the discriminator's"
    )
    CLASSIFIES: ClassVar[bool] = True

    @property
    def generator_factor(self) -> float:
        return self.weight if self.generator_weight is None else self.generator_weight


def cross_entropy(b: Builder, logits: Var, labels: Var | None, out: str = "") -> Var:
    """f32[]: the mean cross-entropy of logits f32[B, K] with labels i64[B]."""
    assert labels is not None
    return mean(b, b.cross_entropy(logits, labels), out)
