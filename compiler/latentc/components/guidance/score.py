"""Guidance by the gradient of any differentiable score of the data that the network predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import ScoreTerm
from latentc.components.guidance.scores._score import DataSlope, GuidingScore, NetworkScore, StateSlope, state_slope
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder


class ScoreGuidance(ScoreTerm):
    """Adds scale times the gradient of a score to the score of the state. It is a score of the data that the network
    predicts, or of the noisy state by a network that takes its time.

    The gradient is backpropagated through the network, so scores need not be trained on noisy data (universal guidance,
    Bansal et al. 2023, arXiv:2302.07121). Scores of images: SDG (Liu et al. 2021, arXiv:2112.05744); of events: Finzi
    et al. 2023, arXiv:2306.07526. Predictions at pure noise (alpha 0), such as the first of a flow, are not guided.
    """

    SETTING: ClassVar[str] = "score_guidance"
    INPUT: ClassVar[str] = "score_scale"

    kind: Literal["score"]
    score: Annotated[GuidingScore, OneOf("guidance/scores")] = Field(
        description="the score that samples should increase"
    )
    at: Literal["data", "state"] = Field(
        "data",
        description="what is scored: the predicted data, or the noisy state, against references with as much noise "
        "(SDG)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "score", "score": {"kind": "event", "above": 0.0}, "scale": 1.0}

    @property
    def scores(self) -> tuple[GuidingScore, ...]:
        """The scores by which it guides, one at a time."""
        return (self.score,)

    def needs(self) -> tuple[Need, ...]:
        return tuple(replace(need, place=("score", *need.place)) for need in self.score.needs(self.at == "state"))

    def reads(self) -> tuple[str, ...]:
        return self.score.reads()

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if any(isinstance(of, NetworkScore) and of.network is None and of.REQUIRED for of in self.scores):
            yield Problem(("score",), f"`{self.score.kind}` needs a network", "name it as `network`")
        for name in self.reads():
            if name not in spec.conditions:
                known = ", ".join(spec.conditions) or "none"
                yield Problem(("score",), f"no such condition: `{name}`", f"conditions of this spec: {known}")
        if self.at == "state" and not self.score.OF_STATES:
            message = f"`{self.score.kind}` scores data, and not noisy states"
            yield Problem(("at",), message, "leave it out, or use a score that a `network` of noisy data computes")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> DataSlope | StateSlope:
        return self.slope(mb, networks, self.score)

    def slope(self, mb: ModuleBuilder, networks: Mapping[str, Network], score: GuidingScore) -> DataSlope | StateSlope:
        """The gradient of one of the scores."""
        if self.at == "state":
            return state_slope(mb, networks["main"], networks, score)
        return score.slope(mb, networks["main"], networks)
