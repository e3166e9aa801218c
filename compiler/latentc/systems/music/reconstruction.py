"""The error of what is known of a sample, whose gradient guides the rest of it towards what fits.

Symbols: B batch, C channels, L length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network
from latentc.components.guidance.guidance import Values
from latentc.components.guidance.scores._score import DataSlope, GuidingScore, data_estimate, score_of_data
from latentc.components.kit import Operands
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B, TensorType

LEAST = 1e-8
"""Least root mean square of a gradient that it is divided by."""


class Reconstruction(GuidingScore):
    """Minus half the squared error of the predicted data where it is known (Levy et al. 2023, arXiv:2311.00613).

    `normalised`, its gradient has as large a root mean square per sample as the score of the noise in the state, so at
    scale s noise predictions change by s on average, at every step; this is the step size of CQT-Diff (Moliner et al.
    2023, arXiv:2210.15228). Otherwise the score is the log-likelihood of what is known, with noise of variance 1 / s.
    """

    kind: Literal["reconstruction"]
    known: str = Field("known", description="condition with the known data: an array of the data's shape")
    keep: str = Field(
        "keep", description="condition that is 1 where it is known, else 0: an array of one channel, for all channels"
    )
    normalised: bool = Field(True, description="scale the gradient by its norm, per sample")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "reconstruction"}

    def reads(self) -> tuple[str, ...]:
        return (self.known, self.keep)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = tuple(spec.data.shape or ())
        wanted = {"known": (self.known, shape), "keep": (self.keep, (1, *shape[1:]))}
        for key, (name, size) in wanted.items():
            condition = spec.conditions.get(name)
            if condition is None:
                continue  # the owner of the score reports it
            if [tuple(port.type.shape[1:]) for port in condition.ports(name, spec)] != [size]:
                message = f"condition `{name}` is not an array of shape {list(size)}, as the data needs it"
                yield Problem((key,), message, "use a condition of kind `array`, and give its field this shape")

    def operands(self, data: TensorType, networks: Mapping[str, Network]) -> dict[str, TensorType]:
        return {self.known: data, self.keep: f32(B, 1, *data.shape[2:])}

    def build(
        self, b: Builder, data: Var, given: Operands, networks: Mapping[str, Network], time: Var | None = None
    ) -> Var:
        error = b.mul(b.op("sub", data, given[self.known]), given[self.keep], out="error")
        axes = tuple(range(1, data.type.rank))
        return b.mul(b.sum(b.mul(error, error), axes=axes, keepdims=False), -0.5, out="fit")

    def slope(self, mb: ModuleBuilder, network: Network, networks: Mapping[str, Network]) -> DataSlope:
        estimate = data_estimate(mb, network)
        given, function = score_of_data(mb, estimate, networks, self)
        return (NormalisedSlope if self.normalised else DataSlope)(estimate, given, function)


@dataclass(frozen=True)
class NormalisedSlope(DataSlope):
    """A gradient with the root mean square, per sample, of the score of standard normal noise in the state."""

    def __call__(self, b: Builder, x: Var, time: Var, operands: Values, scale: Var, coefficients: Values) -> Var:
        _, slope = b.gradient(self.function, "", self.arguments(b, x, time, operands, coefficients), out="fit slope")
        axes = tuple(range(1, slope.type.rank))
        size = b.sqrt(b.mean(b.mul(slope, slope), axes=axes, keepdims=True), out="size")
        # The network's input is z_scale data + deviation noise, with deviation^2 = z_scale z_cov.
        deviation = b.sqrt(b.mul(coefficients["z_cov"], coefficients["z_scale"]), out="deviation")
        column = b.reshape(scale, shape=size.shape, out="scale")
        factor = b.div(column, b.mul(b.maximum(size, LEAST), deviation), out="factor")
        return b.mul(slope, factor, out="slope")
