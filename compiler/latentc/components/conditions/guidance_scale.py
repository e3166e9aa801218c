"""The guidance scale as a condition, for networks that have learned guided predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import kinds_with
from latentc.components.condition import Derived, DrawnInput, Form
from latentc.components.contract import Draw, Port
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, module_class
from latentc.ir.types import B
from latentc_runtime.sources import Setting


class GuidanceScale(Derived):
    """The scale of classifier-free guidance, as input of a distilled network (Meng et al. 2023, arXiv:2210.03142).

    Training draws it uniformly from `range`; in a request it is the setting `guidance`. It is embedded like a time, by
    sinusoids and two linear layers, the second initialised to zero: a copy of a teacher without this input starts with
    the teacher's predictions.
    """

    kind: Literal["guidance_scale"]
    range: tuple[float, float] = Field((1.0, 4.0), description="smallest and largest scale; 1 is no guidance")
    default: float = Field(1.5, description="default scale for requests")
    frequencies: int = Field(256, gt=0, le=65_536, multiple_of=2, description="size of the sinusoidal embedding")
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "guidance_scale"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        low, high = self.range
        if not 0 <= low < high:
            yield Problem(("range",), f"scales from {low:g} to {high:g}", "give [low, high] with 0 <= low < high")
        elif not low <= self.default <= high:
            yield Problem(("default",), f"{self.default:g} is outside the range from {low:g} to {high:g}")
        yield from self.problems_of_objective(spec)
        if sum(isinstance(other, GuidanceScale) for other in spec.conditions.values()) > 1:
            yield Problem((), "a spec can have only one guidance scale", "keep one")

    def problems_of_objective(self, spec: Spec) -> Iterator[Problem]:
        """An objective that gives the scale no meaning."""
        if isinstance(spec.objective, Objective) and not spec.objective.DISTILS:
            message = f"the objective `{spec.objective.kind}` does not train a network with the guidance scale as input"
            others = kinds_with("objectives", lambda cls: issubclass(cls, Objective) and cls.DISTILS)
            yield Problem((), message, f"use the objective {others}, or leave this condition out")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[DrawnInput, ...]:
        low, high = self.range
        draw = Draw(name, "uniform_between", {"low": low, "high": high})
        return (DrawnInput(name, f32(B), draw, Setting("guidance", self.default, low, high)),)

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        return b.sub(prefix, scale_embedder, operands[0], dim=width, frequencies=self.frequencies)


@module_class("ScaleEmbedder")
def scale_embedder(b: Builder, scale: Var, *, dim: int, frequencies: int) -> Var:
    """Embeds guidance scales: sinusoids, then two linear layers."""
    x = b.timestep_embedding(scale * 100.0, dim=frequencies, max_period=10000.0, out="x")
    x = b.silu(b.dense("fc1", x, dim, init="normal", std=0.02), out="x")
    return b.dense("fc2", x, dim, init="zeros")
