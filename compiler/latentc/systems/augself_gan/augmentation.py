"""AugSelf-GAN's prediction of augmentations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.objectives.adversarial import Adversarial
from latentc.components.objectives.terms._term import Round, Side, Term, mean
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var


class AugmentationTerm(Term):
    """The discriminator predicts the parameters w, from 0 to 1, of the objective's augmentations, by the difference of
    its features of an image with and without them.

    It minimises the squared error from w for data and from -w for samples; the generator minimises that of its samples
    from w less that from -w (AugSelf-GAN, Hou et al. 2023, arXiv:2205.15677).
    """

    kind: Literal["augmentation"]
    generator_weight: float | None = Field(
        None, ge=0, description="weight in the generator's loss; null: `weight`, 0: only in the discriminator's"
    )
    READS: ClassVar[tuple[str, ...]] = ("features",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "augmentation"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not (isinstance(spec.objective, Adversarial) and spec.objective.augment):
            message = "the term predicts augmentations, but there are none"
            yield Problem((), message, "add `objective.augment: [color, translation, cutout]`")

    @property
    def generator_factor(self) -> float:
        return self.weight if self.generator_weight is None else self.generator_weight

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None
        b = round.b
        return b.add(_error(b, round.real, 1, "of_data"), _error(b, round.fake, -1, "of_samples"), out=self.kind)

    def of_generator(self, round: Round) -> Var | None:
        b = round.b
        return b.op("sub", _error(b, round.fake, 1, "as_data"), _error(b, round.fake, -1, "as_samples"), out=self.kind)


def _error(b: Builder, side: Side, sign: int, out: str) -> Var:
    """f32[]: the mean squared errors of the predicted parameters from `sign` times the parameters, added up."""
    errors = []
    for name, wanted in side.parameters.items():
        of = side.predicted[name]
        away = b.op("sub", of, wanted) if sign > 0 else b.add(of, wanted)
        errors.append(mean(b, away * away))
    return summed(b, out, errors)
