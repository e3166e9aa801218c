"""The probability of an event: that a number computed from the data lies above or below a bound.

Symbols: B batch, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Index
from latentc.components.contract import Network
from latentc.components.guidance.scores._score import DataSlope, GuidingScore, data_estimate, score_of_data
from latentc.components.kit import Operands
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B

SWITCH, DEPTH = 3.0, 8
"""Where, below zero, the error function gives way to a continued fraction of so many terms (relative error 3e-6)."""


class Event(GuidingScore):
    """log P(statistic > `above`), or < `below`, given the noisy state (Finzi et al. 2023, arXiv:2306.07526).

    Given the state, the data is assumed normal, with the predicted mean and the covariance that follows from the
    derivative of the prediction, and the statistic linear in it. At scale 1, samples therefore have the statistics of
    the event rather than just satisfying it.
    """

    kind: Literal["event"]
    number: Literal["mean", "max", "min", "square"] = Field(
        "mean", description="statistic over all chosen elements of a sample: mean, maximum, minimum, or mean square"
    )
    channels: tuple[Index, ...] | None = Field(None, min_length=1, description="the chosen channels; null: all")
    above: float | None = Field(None, description="the event: the statistic is greater than this")
    below: float | None = Field(None, description="the event: the statistic is less than this")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "event", "number": "max", "above": 0.5}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if (self.above is None) == (self.below is None):
            message = "an event has only one bound" if self.above is not None else "the event has no bound"
            yield Problem((), message, "set either `above` or `below`")
        count = spec.data.shape[0] if spec.data.shape else 0
        for i, channel in enumerate(self.channels or ()):
            if channel >= count:
                yield Problem(
                    ("channels", i),
                    f"channel {channel} is out of range: the data has {count} channels",
                    f"use channels 0 to {count - 1}",
                )

    def slope(self, mb: ModuleBuilder, network: Network, networks: Mapping[str, Network]) -> EventSlope:
        estimate = data_estimate(mb, network)
        s = mb.function("event.statistic")
        s.output(self.statistic(s, s.input("data", mb.functions[estimate.name].outputs[0].type)))
        statistic = s.finish("The statistic whose variance the score needs, one per sample.")
        return EventSlope(estimate, *score_of_data(mb, estimate, networks, self, variance=f32(B)), statistic)

    def statistic(self, b: Builder, data: Var) -> Var:
        """The number f32[B] that the event bounds."""
        if self.channels is not None:
            parts = [b.slice(data, axis=1, start=c, stop=c + 1, out="part") for c in self.channels]
            data = parts[0] if len(parts) == 1 else b.concat(*parts, axis=1, out="chosen")
        axes = tuple(range(1, data.type.rank))
        match self.number:
            case "max":
                return b.max(data, axes=axes, keepdims=False, out="number")
            case "min":
                return b.neg(b.max(b.neg(data), axes=axes, keepdims=False), out="number")
            case "square":
                return b.mean(b.mul(data, data), axes=axes, keepdims=False, out="number")
        return b.mean(data, axes=axes, keepdims=False, out="number")

    def build(
        self, b: Builder, data: Var, given: Operands, networks: Mapping[str, Network], time: Var | None = None
    ) -> Var:
        number = self.statistic(b, data)
        bound = self.above if self.above is not None else self.below
        assert bound is not None
        margin = b.op("sub", number, bound) if self.above is not None else b.op("sub", bound, number)
        deviations = b.div(margin, b.sqrt(given["variance"]), out="deviations")
        return log_normal_cdf(b, deviations)


@dataclass(frozen=True)
class EventSlope(DataSlope):
    """The gradient of an event's probability, which the variance of the function `statistic` decides."""

    statistic: str

    def further(self, b: Builder, given: list[Var], coefficients: Mapping[str, Var]) -> list[Var]:
        """f32[B]: the variance of the statistic given the state, to first order: g' Cov[data] g, g its gradient by the
        data.

        Cov[data | x_t] = (sigma^2 / alpha) d data / d x_t, Tweedie's formula of second order.
        """
        data = b.call(self.estimate.name, "", *given, out="data")
        _, direction = b.gradient(self.statistic, "", [data], out="statistic direction")
        _, change = b.jvp(self.estimate.name, "", given, [direction], out="data change")
        axes = tuple(range(1, data.type.rank))
        along = b.sum(b.mul(direction, change), axes=axes, keepdims=False, out="along")
        return [b.maximum(b.mul(coefficients["z_cov"], along), 1e-6, out="variance")]


def log_normal_cdf(b: Builder, x: Var) -> Var:
    """log P(n < x) of a standard normal n; far below zero by the continued fraction of Mills' ratio."""
    near = b.maximum(x, -SWITCH, out="near")
    cdf = b.mul(b.add(b.erf(b.mul(near, math.sqrt(0.5))), 1.0), 0.5, out="cdf")
    far = b.maximum(b.neg(x), SWITCH, out="far")
    ratio = far
    for k in range(DEPTH, 0, -1):
        ratio = b.add(far, b.div(b.scalar(float(k), far), ratio), out="ratio")
    density = b.add(b.mul(b.mul(far, far), -0.5), -0.5 * math.log(2 * math.pi), out="log_density")
    tail = b.op("sub", density, b.log(ratio), out="tail")
    return b.where(b.less(x, -SWITCH), tail, b.log(cdf), out="log_p")
