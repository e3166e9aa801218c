"""Guidance by several networks, each in one of equal ranges of the noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.guidance.classifier import ClassifierGuidance, class_gradient
from latentc.components.guidance.guidance import Array, Effect, ScoreTerm
from latentc.components.guidance.score import ScoreGuidance
from latentc.components.guidance.scores._score import NetworkScore
from latentc.components.parts import Problem, Spec, under
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.components.processes.process import Process


class Experts(ScoreTerm):
    """A term with another network in each range of the noise (PPAP, Go et al. 2022, arXiv:2212.05973)."""

    experts: tuple[str, ...] = Field(
        min_length=1, max_length=100, description="networks that guide, each in one of equal noise ranges, lowest first"
    )
    timesteps: int | None = Field(
        None,
        gt=1,
        le=100_000,
        description="number of timesteps that the ranges divide; null: the process's, 1000 if it has none",
    )

    @abstractmethod
    def effect(self, mb: ModuleBuilder, networks: Mapping[str, Network], expert: str) -> Effect:
        """The effect of an expert."""

    def directions(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], process: Process
    ) -> list[tuple[str, Callable[[Sequence[float]], Array], Effect]]:
        own = round(process.first - process.last) + 1 if process.WHOLE else 1000
        effects = {name: self.effect(mb, networks, name) for name in dict.fromkeys(self.experts)}
        weights = (partial(self.weights_of, i, self.timesteps or own) for i in range(len(self.experts)))
        return [(f"{i}", of, effects[name]) for i, (name, of) in enumerate(zip(self.experts, weights, strict=True))]

    def weights_of(self, expert: int, timesteps: int, progress: Sequence[float]) -> Array:
        """The weights where an expert acts, 0 elsewhere."""
        bounds = np.array([timesteps * i // len(self.experts) for i in range(1, len(self.experts) + 1)])
        # Bounds in timesteps, ascending from the data; each belongs to the range below it.
        times = np.round((1.0 - np.asarray(progress, np.float64)) * timesteps, 6)
        return self.weights(progress) * (np.searchsorted(bounds, times) == expert)


class ClassifierExperts(Experts, ClassifierGuidance):
    """Classifier guidance by experts, each a classifier in one of equal ranges of the noise (PPAP)."""

    kind: Literal["classifier_experts"]  # type: ignore[assignment]
    network: None = Field(None, description="always null: the experts classify")  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "classifier_experts", "experts": ["classifier"], "scale": 2.0}

    def needs(self) -> tuple[Need, ...]:
        return tuple(Need(name, "classify", place=("experts", i)) for i, name in enumerate(self.experts))

    def effect(self, mb: ModuleBuilder, networks: Mapping[str, Network], expert: str) -> Effect:
        return class_gradient(mb, networks[expert])


class ScoreExperts(Experts, ScoreGuidance):
    """Guidance by a score whose network is an expert, another one in each of equal ranges of the noise (PPAP)."""

    kind: Literal["score_experts"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "score_experts",
        "score": {"kind": "prediction", "reference": "depth"},
        "experts": ["eye"],
    }

    @property
    def scores(self) -> tuple[NetworkScore, ...]:
        if not isinstance(self.score, NetworkScore):
            return ()
        return tuple(self.score.model_copy(update={"network": name}) for name in self.experts)

    def needs(self) -> tuple[Need, ...]:
        found = ((i, need) for i, score in enumerate(self.scores) for need in score.needs(self.at == "state"))
        return tuple(replace(need, place=("experts", i)) for i, need in found)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not isinstance(self.score, NetworkScore):
            message = f"`{self.score.kind}` has no network that `experts` could replace"
            yield Problem(("experts",), message, "use `kind: score`")
        elif self.score.network is not None:
            message = "`experts` are used instead of the score's `network`, which has no effect"
            yield Problem(("score", "network"), message, "leave it out")
        for score in self.scores:
            yield from under("score", problems=score.problems(spec))

    def effect(self, mb: ModuleBuilder, networks: Mapping[str, Network], expert: str) -> Effect:
        return self.slope(mb, networks, self.scores[self.experts.index(expert)])
