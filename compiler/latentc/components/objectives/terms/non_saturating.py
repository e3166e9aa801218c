"""The logistic loss."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.objectives.terms._score import ScoreTerm
from latentc.components.objectives.terms._term import Round
from latentc.ir.builder import Builder, Var

LABEL_NOISE = ("label_noise_of_data", "label_noise_of_samples")
"""Random inputs of the loss that move the labels."""


class NonSaturating(ScoreTerm):
    """Logistic loss; the generator maximises the log-probability of data (Goodfellow et al. 2014, arXiv:1406.2661).

    With `label_noise`, the discriminator's labels are below 1 for data and above 0 for samples, by the magnitude of a
    normal variate of that scale, at most `label_noise_limit` (Wang et al. 2024, arXiv:2410.21264).
    """

    kind: Literal["non_saturating"]
    label_noise: float = Field(0.0, ge=0, le=1, description="scale of the label noise; 0: labels are exactly 1 and 0")
    label_noise_limit: float = Field(0.3, gt=0, le=1, description="maximum label noise")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "non_saturating"}

    def costs(self, round: Round) -> tuple[Var, Var]:
        of_real, of_fake = super().costs(round)
        if not self.label_noise:
            return of_real, of_fake
        assert round.real is not None
        b, real, fake = round.b, round.real.outputs["score"], round.fake.outputs["score"]
        moved = []
        for name, score in zip(LABEL_NOISE, (real, fake), strict=True):
            noise = b.abs(round.draw(Draw(name, "normal"), score.type)) * self.label_noise
            moved.append(b.minimum(noise, self.label_noise_limit, out="noise") * score)
        # The cross-entropy of a score with label y is softplus(-score) + (1 - y) score.
        return b.add(of_real, moved[0], out="of_data"), b.op("sub", of_fake, moved[1], out="of_samples")

    def of_real(self, b: Builder, score: Var) -> Var:
        return b.softplus(-score)

    def of_fake(self, b: Builder, score: Var) -> Var:
        return b.softplus(score)

    def of_made(self, b: Builder, score: Var) -> Var:
        return b.softplus(-score)
