"""A classifier with one class more, for samples."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._classifier import ClassifierTerm, cross_entropy
from latentc.components.objectives.terms._term import Round
from latentc.ir.builder import Var


class FakeClass(ClassifierTerm):
    """The head `classes_and_fake` learns the class of data, and class K for samples (AM-GAN, arXiv:1703.02000).

    The generator is trained to make samples it classifies as data of their class. AM-GAN has no other term.
    """

    kind: Literal["fake_class"]
    READS: ClassVar[tuple[str, ...]] = ("classes_and_fake",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "fake_class"}

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None and round.fake.labels is not None
        b, (output,) = round.b, self.READS
        fake = b.fill_like(round.fake.labels, round.classes)
        of_data = cross_entropy(b, round.real.outputs[output], round.real.labels, "of_data")
        of_samples = cross_entropy(b, round.fake.outputs[output], fake, "of_samples")
        return b.add(of_data, of_samples, out=self.kind)

    def of_generator(self, round: Round) -> Var | None:
        return cross_entropy(round.b, round.fake.outputs["classes_and_fake"], round.fake.labels, self.kind)
