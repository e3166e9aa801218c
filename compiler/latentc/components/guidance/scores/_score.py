"""The base class of scores that guide a sampler, and how they are differentiated at the predicted data.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from latentc.components.capabilities import Capability
from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import Noise, Slope, Values
from latentc.components.kit import Operands, call, first_channels
from latentc.components.parts import Part
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B, TensorType

COEFFICIENTS = ("z_x", "z_output", "z_scale", "z_cov")


@dataclass(frozen=True)
class Estimate:
    """The data that a network predicts from the state, as a function `name` of the module.

    It takes x f32[B, C, ...], t f32[B], the operands of the conditions `cond`, and `COEFFICIENTS` f32[].
    """

    name: str
    cond: tuple[str, ...]

    def operands(self, x: Var, time: Var, operands: Operands, coefficients: Mapping[str, Var]) -> list[Var]:
        """The arguments of `name`, in order."""
        return [x, time, *(operands[name] for name in self.cond), *(coefficients[name] for name in COEFFICIENTS)]


class GuidingScore(Part):
    """How well data fits a wish: a number per sample, whose gradient guides the sampler."""

    OF_STATES: ClassVar[bool] = False
    """Whether it can score noisy states, at their time."""

    def needs(self, noisy: bool = False) -> tuple[Need, ...]:
        """Networks that it calls, and what they must be able to do, perhaps in noisy states; places relative to the
        score.
        """
        return ()

    def noised(self) -> tuple[str, ...]:
        """Those of its operands that are data, which have the noise of the state that they are compared with."""
        return ()

    def reads(self) -> tuple[str, ...]:
        """Conditions that it reads although no network may take them."""
        return ()

    def operands(self, data: TensorType, networks: Mapping[str, Network]) -> dict[str, TensorType]:
        """The operands of conditions that it reads, with their types, for data of this type."""
        return {}

    @abstractmethod
    def build(
        self, b: Builder, data: Var, given: Operands, networks: Mapping[str, Network], time: Var | None = None
    ) -> Var:
        """The score f32[B] of data f32[B, C, ...], or of a noisy state at its `time` f32[B].

        `given` are its `operands`, and those that its `slope` adds.
        """

    def slope(self, mb: ModuleBuilder, network: Network, networks: Mapping[str, Network]) -> DataSlope:
        """Its gradient at the data that `network` predicts; adds the functions that it differentiates to the module."""
        estimate = data_estimate(mb, network)
        return DataSlope(estimate, *score_of_data(mb, estimate, networks, self))


class NetworkScore(GuidingScore):
    """A score of the features that a network computes, if one is named."""

    REQUIRED: ClassVar[bool] = False
    """Whether it needs the network."""

    network: str | None = Field(
        None,
        description="one of `networks`, which provides `see`, or `see_noisy` for states; null: none",
    )

    def needs(self, noisy: bool = False) -> tuple[Need, ...]:
        sees: Capability = "see_noisy" if noisy else "see"
        return () if self.network is None else (Need(self.network, sees, place=("network",)),)


def data_estimate(mb: ModuleBuilder, network: Network) -> Estimate:
    """Adds the function that predicts the data from the network's input, its time and conditions."""
    forward = network.methods["forward"]
    b = mb.function(f"{network.name}.data")
    x, time = b.input("x", forward.input("state").type), b.input("t", f32(B))
    cond = {port.name: b.input(port.name, port.type) for port in forward.inputs_of("condition")}
    k = {name: b.input(name, f32()) for name in COEFFICIENTS}
    out = call(b, network, "forward", cond, state=x, time=time, out="output")
    out = first_channels(b, out, x)
    part = b.add(b.mul(k["z_x"], x), b.mul(k["z_output"], out), out="part")
    b.output(b.div(part, k["z_scale"], out="data"))
    return Estimate(b.finish("The data that the network predicts."), tuple(cond))


@dataclass(frozen=True)
class DataSlope(Slope):
    """A slope at the predicted data: the gradient of a score of it by the network's input, through the network."""

    OF_DATA: ClassVar[bool] = True
    estimate: Estimate
    given: tuple[str, ...]
    function: str

    def further(self, b: Builder, given: list[Var], coefficients: Mapping[str, Var]) -> list[Var]:
        """Operands of the score beside those of conditions; `given` are those of the estimate."""
        return []

    def arguments(self, b: Builder, x: Var, time: Var, operands: Values, coefficients: Values) -> list[Var]:
        given = self.estimate.operands(x, time, operands, coefficients)
        return [*given, *(operands[name] for name in self.given), *self.further(b, given, coefficients)]


def score_of_data(
    mb: ModuleBuilder, estimate: Estimate, networks: Mapping[str, Network], score: GuidingScore, **more: TensorType
) -> tuple[tuple[str, ...], str]:
    """(operands of conditions that it reads, the function that scores the predicted data); `more`: further operands."""
    fn, b = mb.functions[estimate.name], mb.function(f"{score.kind}.score")
    given = [b.input(v.name, v.type) for v in fn.inputs]
    own = score.operands(fn.outputs[0].type, networks)
    extra = {name: b.input(f"given_{name}", type) for name, type in own.items()}
    extra |= {name: b.input(name, type) for name, type in more.items()}
    data = b.call(estimate.name, "", *given, out="data")
    b.output(score.build(b, data, extra, networks))
    return tuple(own), b.finish("How well the predicted data fits, one value per sample.")


@dataclass(frozen=True)
class StateSlope(Slope):
    """A slope at the noisy state: the gradient of a score of it by the network's input, with noised references."""

    OF_DATA: ClassVar[bool] = True
    given: tuple[str, ...]
    noised: tuple[str, ...]
    function: str
    noise: tuple[Noise, ...] = ()

    def arguments(self, b: Builder, x: Var, time: Var, operands: Values, coefficients: Values) -> list[Var]:
        # The network's input is z_scale data + deviation noise; z_cov is deviation^2 / z_scale.
        alpha = coefficients["z_scale"]
        deviation = b.sqrt(b.mul(coefficients["z_cov"], alpha), out="deviation")
        given = {name: operands[name] for name in self.given}
        for name, noise in zip(self.noised, self.noise, strict=True):
            parts = b.mul(alpha, given[name], out="part"), b.mul(deviation, coefficients[noise.name], out="part")
            given[name] = b.add(*parts, out="noised")
        return [x, time, *given.values()]


def state_slope(
    mb: ModuleBuilder, network: Network, networks: Mapping[str, Network], score: GuidingScore
) -> StateSlope:
    """The gradient of `score` at noisy states; adds the function that it differentiates to the module."""
    data = network.methods["forward"].input("state").type
    b = mb.function(f"{score.kind}.score")
    x, time = b.input("x", data), b.input("t", f32(B))
    extra = {name: b.input(f"given_{name}", type) for name, type in score.operands(data, networks).items()}
    b.output(score.build(b, x, extra, networks, time))
    function = b.finish("How well the noisy state fits, one value per sample.")
    noise = tuple(Noise(f"{name}_noise", data) for name in score.noised())
    return StateSlope(tuple(extra), score.noised(), function, noise)
