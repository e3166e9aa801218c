"""AC-GAN's auxiliary classifier."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.objectives.terms._classifier import ClassifierTerm, cross_entropy
from latentc.components.objectives.terms._term import Round
from latentc.ir.builder import Var


class AuxiliaryClassifier(ClassifierTerm):
    """The head `classes` learns the class of data; the generator is trained to make samples it classifies correctly.

    AC-GAN (Odena et al. 2017, arXiv:1610.09585), where the classifier also learns from samples, has
    `learns_from_samples`.
    """

    kind: Literal["auxiliary_classifier"]
    learns_from_samples: bool = Field(
        False, description="also train the classifier on samples, with the classes they were drawn for"
    )
    READS: ClassVar[tuple[str, ...]] = ("classes",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "auxiliary_classifier"}

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None
        loss = cross_entropy(
            round.b,
            round.real.outputs["classes"],
            round.real.labels,
            "of_data" if self.learns_from_samples else self.kind,
        )
        if not self.learns_from_samples:
            return loss
        return round.b.add(loss, self._of_samples(round, "of_samples"), out=self.kind)

    def of_generator(self, round: Round) -> Var | None:
        return self._of_samples(round, self.kind)

    def _of_samples(self, round: Round, out: str) -> Var:
        return cross_entropy(round.b, round.fake.outputs["classes"], round.fake.labels, out)
