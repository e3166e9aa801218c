"""The span of time over which a network's velocity is averaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Derived, Form, TimeFeatures
from latentc.components.conditions.timestep import Timestep
from latentc.components.contract import Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B


class Span(Derived):
    """The length of a step, |t - r|, for networks that predict average velocities (Geng et al. 2025, arXiv:2505.13447).

    It is a second time input: losses and samplers supply it, and by default it is 0, which means the instantaneous
    velocity. It is embedded like `conditioning.time: {kind: timestep}`.
    """

    kind: Literal["span"]
    frequencies: int = Field(256, gt=0, le=65_536, multiple_of=2, description="size of the sinusoidal embedding")
    max_period: float = Field(10000.0, gt=1, description="longest period, relative to the span")
    weights: Literal["normal", "lecun"] = Field(
        "normal",
        description="initialisation of linear layers: lecun, with standard deviation 1 / sqrt(inputs) (improved "
        "MeanFlow), or normal, with 0.02",
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "span"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        objective = spec.objective
        target = objective.parameterization() if objective is not None else None
        if objective is not None and (target is None or not target.averaged):
            message = f"the objective `{objective.kind}` does not train a network to predict average velocities"
            yield Problem((), message, "use an objective that does, or leave this condition out")
        if sum(isinstance(other, Span) for other in spec.conditions.values()) > 1:
            yield Problem((), "a spec can have only one span", "keep one")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B), "time"),)

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        return self._embedding.vector(b, prefix, operands[0], width, self.weights)

    @property
    def _embedding(self) -> TimeFeatures:
        return Timestep(kind="timestep", frequencies=self.frequencies, max_period=self.max_period)
