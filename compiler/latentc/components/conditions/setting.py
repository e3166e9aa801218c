"""A number that a request sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Derived, DrawnInput, Form, TimeFeatures
from latentc.components.conditions.timestep import Timestep
from latentc.components.contract import Draw, Port
from latentc.components.parts import Applies, Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Setting as Asked


class SettingCondition(Derived):
    """A number that training draws and requests set, such as the scale or interval of guidance in a network trained
    with it. It is embedded like a time, by sinusoids and two linear layers.
    """

    kind: Literal["setting"]
    setting: str | None = Field(None, description="name in requests; null: that of the condition")
    range: tuple[float, float] = Field((0.0, 1.0), description="smallest and largest value")
    default: float = Field(0.0, description="default value for requests")
    distribution: Literal["uniform", "inverse", "power"] = Field(
        "uniform",
        description="distribution in training; inverse: density proportional to 1 / value; power: to 1 / value^`power`",
    )
    power: float = Field(3.0, gt=1, le=16, description="power of the density")
    APPLIES: ClassVar[Applies] = {"power": ("distribution", ("power",))}
    embedded: Literal["value", "one_minus_inverse"] = Field(
        "value", description="quantity that is embedded: the value v, or 1 - 1 / v"
    )
    frequencies: int = Field(256, gt=0, le=65_536, multiple_of=2, description="size of the sinusoidal embedding")
    weights: Literal["normal", "lecun"] = Field(
        "normal",
        description="initialisation of linear layers: lecun, with standard deviation 1 / sqrt(inputs) (improved "
        "MeanFlow), or normal, with 0.02",
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "setting"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        low, high = self.range
        positive = self.distribution != "uniform" or self.embedded == "one_minus_inverse"
        if not low < high or (positive and low <= 0):
            bound = "0 < low < high" if positive else "low < high"
            yield Problem(("range",), f"values from {low:g} to {high:g}", f"give [low, high] with {bound}")
        elif not low <= self.default <= high:
            yield Problem(("default",), f"{self.default:g} is outside the range from {low:g} to {high:g}")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[DrawnInput, ...]:
        low, high = self.range
        kind = {"uniform": "uniform_between", "inverse": "log_uniform", "power": "power_law"}[self.distribution]
        power = {"power": self.power} if self.distribution == "power" else {}
        draw = Draw(name, kind, {"low": low, "high": high, **power})
        return (DrawnInput(name, f32(B), draw, Asked(self.setting or name, self.default, low, high)),)

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        (value,) = operands
        if self.embedded == "one_minus_inverse":
            value = b.op("sub", 1.0, 1.0 / value, out=name)
        return self._embedding.vector(b, prefix, value, width, self.weights)

    @property
    def _embedding(self) -> TimeFeatures:
        return Timestep(kind="timestep", frequencies=self.frequencies)
