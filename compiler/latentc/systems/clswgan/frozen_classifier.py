"""f-CLSWGAN's term of a classifier that is trained already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need
from latentc.components.kit import call
from latentc.components.objectives.terms._classifier import cross_entropy
from latentc.components.objectives.terms._term import Round, Term
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Var

CLASSIFIER = "classifier"
"""Name of the network that classifies samples."""


class FrozenClassifier(Term):
    """Cross-entropy of a sample's class by the frozen network `classifier`, in the generator's loss (f-CLSWGAN)."""

    kind: Literal["frozen_classifier"]
    weight: float = Field(0.01, gt=0, description="weight of the term")
    READS: ClassVar[tuple[str, ...]] = ()
    CLASSIFIES: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "frozen_classifier"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        network = spec.networks.get(CLASSIFIER)
        if network is not None and network.TIME:
            yield Problem(
                (), f"a {network.kind} takes a time, so it classifies noisy samples", "use one without a time"
            )

    def needs(self, place: tuple[str | int, ...]) -> tuple[Need, ...]:
        return (Need(CLASSIFIER, "classify", (), place, f"the term `{self.kind}`"),)

    def of_generator(self, round: Round) -> Var | None:
        b, fake = round.b, round.fake
        logits = call(b, round.networks[CLASSIFIER], "forward", {}, state=fake.images, out="logits")
        return cross_entropy(b, logits, fake.labels, self.kind)
