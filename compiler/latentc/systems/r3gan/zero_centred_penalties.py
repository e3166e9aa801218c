"""R3GAN's penalty on the gradients of the score by data and by samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.kit import state_gradient
from latentc.components.objectives._common import risen
from latentc.components.objectives.terms._term import Round, Term, mean
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Var


class ZeroCentredPenalties(Term):
    """Squared norms of the gradients of the score by images, at data (R1) and at samples (R2), summed.

    Both are computed in one pass. Mescheder et al. 2018, arXiv:1801.04406; `weight` is gamma / 2. It may fall along
    half a cosine (R3GAN, Huang et al. 2024, arXiv:2501.05441).
    """

    kind: Literal["zero_centred_penalties"]
    final: float | None = Field(None, gt=0, description="weight at the end of the fall; null: it does not fall")
    steps: int = Field(1, gt=0, le=1_000_000_000, description="optimiser steps over which it falls to `final`")
    DIFFERENTIATES: ClassVar[bool] = True
    REACHES_GENERATOR: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "zero_centred_penalties", "weight": 0.1}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.final is None and self.steps != 1:
            yield Problem(("steps",), "the weight does not fall", "add `final`, or leave `steps` out")

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None
        b, sides = round.b, (round.real, round.fake)
        images = b.concat(*(side.images for side in sides), axis=0, out="images")
        cond = {
            name: b.concat(*(side.conditions[name] for side in sides), axis=0, out="classes")
            for name in round.real.conditions
        }
        gradient = state_gradient(b, round.discriminator, cond, images, out="score gradient")
        axes = tuple(range(1, gradient.type.rank))
        squared = b.sum(gradient * gradient, axes=axes, keepdims=False, out="squared_norm")
        # The mean over data and samples is half of the sum of both means.
        penalty = b.mul(mean(b, squared), 2.0, out=self.kind)
        if self.final is None:
            return penalty
        share = b.mul(b.cos(risen(b, self.steps) * math.pi) + 1.0, 0.5, out="share")
        ratio = self.final / self.weight
        return b.mul(penalty, share * (1 - ratio) + ratio, out=self.kind)
