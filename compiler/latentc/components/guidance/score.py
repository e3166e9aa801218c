"""Guidance by the gradient of any differentiable score of the data that the network predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Need, Network
from latentc.components.guidance._experts import ExpertTerm
from latentc.components.guidance.guidance import Array, Effect
from latentc.components.guidance.scores._score import (
    DataSlope,
    GuidingScore,
    NetworkScore,
    StateSlope,
    data_slope,
    state_slope,
)
from latentc.components.parts import Problem
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.components.processes.process import Process
    from latentc.spec.schema import Spec


class ScoreGuidance(ExpertTerm):
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
    def scores(self) -> dict[str, GuidingScore]:
        """The score of each expert by name; that of the score's own network, if there are none, as ``."""
        if self.experts is None:
            return {"": self.score}
        return {name: self.score.model_copy(update={"network": name}) for name in self.experts}

    def needs(self) -> tuple[Need, ...]:
        noisy = self.at == "state"
        if self.experts is not None:
            found = ((i, need) for i, name in enumerate(self.experts) for need in self.scores[name].needs(noisy))
            return tuple(replace(need, place=("experts", i)) for i, need in found)
        return tuple(replace(need, place=("score", *need.place)) for need in self.score.needs(self.at == "state"))

    def reads(self) -> tuple[str, ...]:
        return self.score.reads()

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        of_network = self.score if isinstance(self.score, NetworkScore) else None
        if self.experts is not None and of_network is None:
            message = f"`{self.score.kind}` has no network that `experts` could replace"
            yield Problem(("experts",), message, "leave `experts` out")
        elif self.experts is not None and of_network is not None and of_network.network is not None:
            message = "`experts` are used instead of the score's `network`, which has no effect"
            yield Problem(("score", "network"), message, "leave out either")
        elif self.experts is not None:
            problems = (problem for score in self.scores.values() for problem in score.problems(spec))
            yield from (replace(problem, path=("score", *problem.path)) for problem in problems)
        elif of_network is not None and of_network.network is None and of_network.REQUIRED:
            yield Problem(("score",), f"`{self.score.kind}` needs a network", "name it as `network`, or give `experts`")
        for name in self.reads():
            if name not in spec.conditions:
                known = ", ".join(spec.conditions) or "none"
                yield Problem(("score",), f"no such condition: `{name}`", f"conditions of this spec: {known}")
        if self.at == "state" and not self.score.OF_STATES:
            message = f"`{self.score.kind}` scores data, and not noisy states"
            yield Problem(("at",), message, "leave it out, or use `kind: likeness` with a `network`")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> DataSlope | StateSlope:
        return self._slope(mb, networks, self.score)

    def directions(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], process: Process
    ) -> list[tuple[str, Callable[[Sequence[float]], Array], Effect]]:
        if self.experts is None:
            return super().directions(mb, networks, process)
        slopes = {name: self._slope(mb, networks, score) for name, score in self.scores.items()}
        return [(part, weights, slopes[name]) for part, name, weights in self.ranges(process)]

    def _slope(self, mb: ModuleBuilder, networks: Mapping[str, Network], score: GuidingScore) -> DataSlope | StateSlope:
        slope = state_slope if self.at == "state" else data_slope
        return slope(mb, networks["main"], networks, score)
