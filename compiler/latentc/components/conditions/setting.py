"""A number that a request sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, DrawnInput, Form, TimeFeatures
from latentc.components.conditions.timestep import Timestep
from latentc.components.contract import Draw, Port
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested
from latentc_runtime.sources import Setting as Asked

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class SettingCondition(Condition):
    """A number that training draws and a request sets, such as the scale or the interval of guidance that a network has
    learned.

    It is embedded as a time is, by sinusoids and two linear layers.
    """

    kind: Literal["setting"]
    setting: str | None = Field(None, description="its name in requests; null: that of the condition")
    range: tuple[float, float] = Field((0.0, 1.0), description="least and greatest value")
    default: float = Field(0.0, description="value of a request that names none")
    distribution: Literal["uniform", "inverse"] = Field(
        "uniform", description="in training; inverse: the density falls as value^-power"
    )
    power: float = Field(1.0, ge=0, le=100, description="of the distribution `inverse` (beta of improved MeanFlow)")
    told: Literal["value", "one_minus_inverse"] = Field(
        "value", description="what is embedded: the value v, or 1 - 1 / v"
    )
    frequencies: int = Field(256, gt=0, le=65_536, multiple_of=2, description="size of the sinusoidal embedding")
    weights: Literal["normal", "lecun"] = Field(
        "normal",
        description="how its linear layers start: lecun, of deviation 1 / sqrt(inputs) (improved MeanFlow), or 0.02",
    )
    field: None = Field(None, description="it is drawn, not read from the data")
    dropout: float = Field(0.0, ge=0, le=0, description="it is always given")
    FORMS: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "setting"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        low, high = self.range
        positive = self.distribution == "inverse" or self.told == "one_minus_inverse"
        if not low < high or (positive and low <= 0):
            bound = "0 < low < high" if positive else "low < high"
            yield Problem(("range",), f"values from {low:g} to {high:g}", f"give [low, high] with {bound}")
        elif not low <= self.default <= high:
            yield Problem(("default",), f"{self.default:g} is outside the range from {low:g} to {high:g}")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[DrawnInput, ...]:
        low, high = self.range
        ends = {"low": low, "high": high}
        if self.distribution == "uniform":
            draw = Draw(name, "uniform_between", ends)
        elif self.power == 1:
            draw = Draw(name, "log_uniform", ends)
        else:
            draw = Draw(name, "power_law", {**ends, "power": self.power})
        return (DrawnInput(name, f32(B), draw, Asked(self.setting or name, self.default, low, high)),)

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return operands

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        return ()

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        (value,) = operands
        if self.told == "one_minus_inverse":
            value = b.op("sub", 1.0, 1.0 / value, out=name)
        return self._embedding.vector(b, prefix, value, width, self.weights)

    @property
    def _embedding(self) -> TimeFeatures:
        return Timestep(kind="timestep", frequencies=self.frequencies)


__all__ = ["SettingCondition"]
