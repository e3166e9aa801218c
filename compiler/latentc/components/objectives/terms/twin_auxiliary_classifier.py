"""TAC-GAN's two classifiers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._classifier import ClassifierTerm, cross_entropy
from latentc.components.objectives.terms._term import Round
from latentc.ir.builder import Var


class TwinAuxiliaryClassifier(ClassifierTerm):
    """The head `classes` learns from data, its twin `twin_classes` from samples; the generator's loss uses both.

    It minimises the cross-entropy of the first and maximises that of the twin (TAC-GAN, Gong et al. 2019,
    arXiv:1907.02690).
    """

    kind: Literal["twin_auxiliary_classifier"]
    READS: ClassVar[tuple[str, ...]] = ("classes", "twin_classes")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "twin_auxiliary_classifier"}

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None
        b, real, fake = round.b, round.real, round.fake
        of_data = cross_entropy(b, real.outputs["classes"], real.labels, "of_data")
        of_samples = cross_entropy(b, fake.outputs["twin_classes"], fake.labels, "of_samples")
        return b.add(of_data, of_samples, out=self.kind)

    def of_generator(self, round: Round) -> Var | None:
        b, fake = round.b, round.fake
        first, twin = (cross_entropy(b, fake.outputs[name], fake.labels, f"of_{name}") for name in self.READS)
        return b.op("sub", first, twin, out=self.kind)
