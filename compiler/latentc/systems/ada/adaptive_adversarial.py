"""A GAN whose images are augmented with a probability that follows how far the discriminator overfits.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from latentc.components.contract import Draw, Need, Network
from latentc.components.kit import call
from latentc.components.objectives.adversarial import Adversarial, Game
from latentc.components.objectives.augmentations._augmentation import Augmentation, augment_side, column, drawn_for
from latentc.components.objectives.terms._term import Round, Side, mean
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B

PROBABILITY = "probability"
"""Name of the network that keeps the probability."""


class AdaptiveAdversarial(Adversarial):
    """As `adversarial`, but each augmentation is applied to an image with the probability of network `probability`.

    The scores of data move it (ADA, Karras et al. 2020, arXiv:2006.06676).
    """

    kind: Literal["adaptive_adversarial"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaptive_adversarial", "augment": ["color", "translation"]}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return *super().needs(spec), Need(PROBABILITY, "adapt_augmentation")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not self.augment:
            message = "no augmentations are applied with the probability that is adapted"
            yield Problem(("augment",), message, "add `objective.augment: [color, translation, cutout]`")
        for i, term in enumerate(self.terms):
            if "features" in term.READS:
                message = f"`{term.kind}` predicts the augmentation of every image, but not every image is augmented"
                yield Problem(("terms", i), message, "use `adversarial`")

    def game(self, networks: Mapping[str, Network], spec: Spec) -> Game:
        return AdaptiveGame(self.terms, self.augment, networks, spec)


@dataclass(frozen=True)
class AdaptiveGame(Game):
    """The game whose augmentations are applied by chance."""

    def metrics(self, round: Round) -> dict[str, Var]:
        """The probability too, which the scores of data then move."""
        assert round.real is not None
        b, score = round.b, round.b.stop_gradient(round.real.outputs["score"], out="score")
        probability = mean(b, call(b, self.networks[PROBABILITY], "forward", {}, state=score), PROBABILITY)
        return {**super().metrics(round), PROBABILITY: probability}

    def _drawn(self, *sides: str) -> tuple[Draw, ...]:
        shape, draws = self.spec.data.shape or (), list[Draw]()
        for of in sides:
            for part in self.augment:
                draws += [*drawn_for((part,), shape, of), Draw(_applied(part, of), "uniform")]
        return tuple(draws)

    def _augment(self, b: Builder, **sides: Side) -> None:
        probability = call(b, self.networks[PROBABILITY], "current", {}, out=PROBABILITY)
        for of, side in sides.items():
            original = side.images
            for part in self.augment:
                before = side.images
                augment_side(b, (part,), side, of)
                applied = b.less(b.input(_applied(part, of), f32(B)), probability, out="applied")
                side.images = b.where(column(b, applied, before.type.rank), side.images, before, out="augmented")
            side.original = original


def _applied(part: Augmentation, of: str) -> str:
    """Name of the uniform number per image that decides whether it is augmented."""
    return f"{part.kind}_applied_of_{of}"
