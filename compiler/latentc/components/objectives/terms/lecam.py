"""LeCam regularisation of a discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.kit import call
from latentc.components.objectives.terms._term import Round, Term, mean
from latentc.components.parts import Fraction
from latentc.ir.builder import Var


class LeCam(Term):
    """max(0, score of data - average for samples)^2 + max(0, average for data - score of samples)^2.

    In the discriminator's loss; the discriminator stores moving averages of its scores (Tseng et al. 2021,
    arXiv:2104.03310).
    """

    kind: Literal["lecam"]
    weight: float = Field(0.001, gt=0, description="weight of the term")
    decay: Fraction = Field(0.999, description="decay of the averages, per update")
    of: Literal["scores", "means"] = Field(
        "scores", description="compare each score with the average, or their mean over the batch"
    )
    REACHES_GENERATOR: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "lecam"}

    @property
    def asks(self) -> Mapping[str, Any]:
        return {"averages": self.decay}

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None
        b, scores = round.b, [side.outputs["score"] for side in (round.real, round.fake)]
        averages = call(b, round.discriminator, "averages", {}, state=scores, out="average_of_data average_of_samples")
        if self.of == "means":
            scores = [mean(b, score, "mean") for score in scores]
        excess = (
            b.relu(b.op("sub", scores[0], averages[1]), out="above"),
            b.relu(b.op("sub", averages[0], scores[1]), out="below"),
        )
        return b.add(*(mean(b, part * part) for part in excess), out=self.kind)
