"""StyleGAN-XL's guidance of the generator by a classifier."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need
from latentc.components.kit import call
from latentc.components.objectives.terms._classifier import ClassifierTerm, cross_entropy
from latentc.components.objectives.terms._term import Round
from latentc.ir.builder import Var

CLASSIFIER = "classifier"
"""Name of the frozen network."""


class GuidingClassifier(ClassifierTerm):
    """Cross-entropy of the frozen network `classifier` on samples, for the classes they were made for.

    In the generator's loss (Sauer et al. 2022, arXiv:2202.00273, section 3.4).
    """

    kind: Literal["guiding_classifier"]
    generator_weight: None = Field(None, description="none: the term is in the generator's loss alone")  # type: ignore[assignment]
    READS: ClassVar[tuple[str, ...]] = ()
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "guiding_classifier"}

    def needs(self, place: tuple[str | int, ...]) -> tuple[Need, ...]:
        return (Need(CLASSIFIER, "classify", (), place, f"the term `{self.kind}`"),)

    def of_generator(self, round: Round) -> Var | None:
        b, network = round.b, round.networks[CLASSIFIER]
        logits = call(b, network, "forward", {}, state=round.fake.images, out="class_logits")
        return cross_entropy(b, logits, round.fake.labels, self.kind)
