"""ADC-GAN's discriminative classifier."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._classifier import ClassifierTerm, cross_entropy
from latentc.components.objectives.terms._term import Round, Side
from latentc.ir.builder import Builder, Var


class DiscriminativeClassifier(ClassifierTerm):
    """The head `discriminative` distinguishes data and samples of each class, as 2 K classes.

    Class 2 y is data of class y, class 2 y + 1 a sample. The generator minimises its samples' cross-entropy with 2 y
    and maximises that with 2 y + 1 (ADC-GAN, Hou et al. 2022, arXiv:2107.10060).
    """

    kind: Literal["discriminative_classifier"]
    READS: ClassVar[tuple[str, ...]] = ("discriminative",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "discriminative_classifier"}

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None
        b = round.b
        return b.add(_of(b, round.real, 0, "of_data"), _of(b, round.fake, 1, "of_samples"), out=self.kind)

    def of_generator(self, round: Round) -> Var | None:
        b = round.b
        return b.op("sub", _of(b, round.fake, 0, "as_data"), _of(b, round.fake, 1, "as_samples"), out=self.kind)


def _of(b: Builder, side: Side, offset: int, out: str) -> Var:
    """f32[]: the cross-entropy with classes 2 y + offset."""
    assert side.labels is not None
    labels = side.labels * 2 + offset if offset else side.labels * 2
    return cross_entropy(b, side.outputs["discriminative"], labels, out)
