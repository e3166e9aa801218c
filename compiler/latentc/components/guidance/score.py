"""Guidance by the gradient of any differentiable score of the data that the network predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import Array, GuidanceTerm, Scheduled
from latentc.components.guidance.scores._score import DataSlope, GuidingScore, data_slope
from latentc.components.parts import Fraction, Problem, under
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class ScoreGuidance(Scheduled, GuidanceTerm):
    """Adds scale times the gradient of a score of the predicted data to the score of the state.

    The gradient goes through the network, so scores need no training on noisy data (universal guidance, Bansal et al.
    2023, arXiv:2302.07121). Scores of images: SDG (Liu et al. 2021, arXiv:2112.05744); of events: Finzi et al. 2023,
    arXiv:2306.07526. A prediction at pure noise (alpha 0), the first of a flow, is not guided.
    """

    SETTING: ClassVar[str] = "score_guidance"
    INPUT: ClassVar[str] = "score_scale"
    OF_SCORE: ClassVar[bool] = True

    kind: Literal["score"]
    score: Annotated[GuidingScore, OneOf("guidance/scores")] = Field(description="what the samples are to have much of")
    scale: float = Field(1.0, ge=0, description="default scale; 0 is no guidance. An input of the engine")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="part of the way from noise (0) to data (1) where it acts"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "score", "score": {"kind": "event", "above": 0.0}, "scale": 1.0}

    def needs(self) -> tuple[Need, ...]:
        return tuple(replace(need, place=("score", *need.place)) for need in self.score.needs())

    @property
    def runs(self) -> int:
        return 3

    def reads(self) -> tuple[str, ...]:
        return self.score.reads()

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.interval[0] > self.interval[1]:
            yield Problem(("interval",), "the interval ends before it starts", "from noise (0) to data (1)")
        for name in self.reads():
            if name not in spec.conditions:
                known = ", ".join(spec.conditions) or "none"
                yield Problem(("score",), f"no such condition: `{name}`", f"conditions of this spec: {known}")
        yield from under("score", problems=self.score.problems(spec))

    def weights(self, progress: Sequence[float]) -> Array:
        low, high = self.interval
        return self.grown(progress) * [low <= p <= high for p in progress]

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> DataSlope:
        return data_slope(mb, networks["main"], networks, self.score)
