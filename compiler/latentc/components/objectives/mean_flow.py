"""MeanFlow: average velocities, learned from an identity that ties them to the velocity at one time.

Symbols: B batch; x the data, e the noise; z = x_t a state at time t, r the time nearer the data at which the average
ends; v the velocity dz/dt, u its average from r to t, h = |t - r|. (t - r) u is the integral of v, so u = v - (t - r)
du/dt, with du/dt along the path: a derivative of the network in the direction (v, 1) of (z, t).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, OneOfThese
from latentc.components.conditions.span import Span
from latentc.components.contract import Draw, Network, Role, Update
from latentc.components.kit import (
    Conditions,
    call,
    derivative_along,
    per_sample_mean,
    training_method,
    training_noise,
)
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising import DenoisingObjective
from latentc.components.parts import Fraction, Problem
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.process import Parameterization
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class TrainedGuidance(Closed):
    """Classifier-free guidance that the network learns: v~ = omega v + kappa v(c) + (1 - omega - kappa) v(no c).

    v(c) and v(no c) are the network's own velocities. The effective scale is omega / (1 - kappa).
    """

    omega: float = Field(1.0, gt=0, description="share of the velocity of the sample itself")
    kappa: float = Field(0.5, ge=0, lt=1, description="share of the network's own velocity under the condition")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="the times between which it guides, in the process's time"
    )


class MeanFlow(DenoisingObjective):
    """Learns the average velocity over a span of time, so that one evaluation samples (Geng et al. 2025,
    arXiv:2505.13447).

    The network is told the time and, by the condition `span`, how far the average reaches.
    """

    kind: Literal["mean_flow"]
    process: Annotated[Interpolant, OneOfThese("processes", classes=(Interpolant,))] = Field(
        Interpolant(kind="interpolant", noise_time=1, times="logit_normal", logit_mean=-0.4),
        description="the path from noise to data, and the distribution of both times",
    )
    averaged: float = Field(
        0.25, ge=0, le=1, description="share of the samples whose span is not 0; the others are flow matching"
    )
    guidance: TrainedGuidance | None = Field(None, description="guidance that the network learns; null: none")
    power: float = Field(
        1.0,
        ge=0,
        le=2,
        description="p of the weight (e + eps)^-p with e the summed squared error; 0: none",
    )
    eps: float = Field(0.01, gt=0, description="added to the summed squared error in the weight")
    AVERAGES: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mean_flow", "guidance": {"omega": 0.8, "kappa": 0.5}}

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "flow_velocity")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not any(isinstance(condition, Span) for condition in spec.conditions.values()):
            message = "the network is not told the span of time that its velocity is averaged over"
            yield Problem((), message, "add `conditioning.span: {kind: span}`")
        if self.guidance is None:
            return
        if not any(condition.nullable for condition in spec.conditions.values()):
            message = "guidance needs a network that is trained without its condition now and then"
            yield Problem(("guidance",), message, "set the `dropout` of a condition, or leave `guidance` out")
        if self.guidance.interval[0] >= self.guidance.interval[1]:
            yield Problem(("guidance", "interval"), "the interval is empty", "give [low, high] with low < high")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions, process = networks["main"], Conditions(spec, networks), self.process
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        m = Symbolic(b, x0.type.rank)
        draws = (process.draw(), Draw("u_r", process.draw().distribution), Draw("instant", "uniform"))
        t, r = self._times(b, m, *(b.input(draw.name, f32(B)) for draw in draws))
        noise = b.input("noise", x0.type)
        at = process.at(m, t)
        x_t = weighted_sum(b, "x_t", (process.alpha(m, at), x0), (process.sigma(m, at), noise))
        d_alpha, d_sigma = process.derivatives(m, at)
        v = weighted_sum(b, "v", (d_alpha, x0), (d_sigma, noise))
        told, dropped = conditions.dropping(b, given)
        if self.guidance is not None:
            v = self._guided(b, self.guidance, network, conditions, given, dropped, x_t, t, v)

        # What the network predicts and how that changes along the path, on which r stays.
        falls = process.first > process.last  # from noise to data
        h = b.op("sub", t, r, out="h") if falls else b.op("sub", r, t, out="h")
        one = b.fill_like(t, 1.0)
        tangents: dict[Role, Any] = {"state": v, "time": [one, one if falls else b.fill_like(t, -1.0)]}
        own, own_draws = training_noise(b, network)
        operands: dict[str, Any] = {"state": x_t, "time": [t, h], "noise": own}
        method = training_method(network)
        u, du_dt = derivative_along(b, network, method, told, tangents, out="u du_dt", **operands)
        target = b.stop_gradient(weighted_sum(b, "u_target", (1.0, v), (m.column(r - t, "step"), du_dt)))

        error = b.op("sub", u, target, out="error")
        squared = b.op("mul", error, error, out="squared")
        total = b.sum(squared, axes=tuple(range(1, x0.type.rank)), keepdims=False, out="total")
        loss = total
        if self.power:
            weight = b.pow(total + self.eps, b.scalar(-self.power, total), out="weight")
            loss = b.op("mul", total, b.stop_gradient(weight), out="loss")
        b.output(loss, per_sample_mean(b, squared, out="mse"))
        b.finish("MeanFlow's weighted squared error and the mean squared error, one value per sample each.")
        drawn = (*draws, Draw("noise", "normal"), *conditions.drawn(), *conditions.draws(), *own_draws)
        return publish(mb, ("loss", "mse"), ("x", *conditions.fields), drawn, self.trained(spec))

    def _times(self, b: Builder, m: Symbolic, u: Var, u_r: Var, instant: Var) -> tuple[Var, Var]:
        """(t, r) f32[B]: two training times, t the one nearer the noise; r is t for the samples of flow matching."""
        first, second = (self.process.training_time(m, draw, "flow_velocity") for draw in (u, u_r))
        later, sooner = ("maximum", "minimum") if self.process.first > self.process.last else ("minimum", "maximum")
        t = b.op(later, first, second, out="t")
        return t, b.where(b.less(instant, 1.0 - self.averaged), t, b.op(sooner, first, second), out="r")

    def _guided(
        self,
        b: Builder,
        guidance: TrainedGuidance,
        network: Network,
        conditions: Conditions,
        given: Mapping[str, Var],
        dropped: list[Var],
        x_t: Var,
        t: Var,
        v: Var,
    ) -> Var:
        """v with guidance by the network itself, where no condition is dropped and within the interval."""
        null = conditions.null(b, given)
        terms: list[tuple[Coefficient, Var]] = [(guidance.omega, v)]
        without = call(b, network, "forward", null, state=x_t, time=t, out="without")
        terms.append((round(1.0 - guidance.omega - guidance.kappa, 12), without))
        if guidance.kappa:
            terms.append((guidance.kappa, call(b, network, "forward", given, state=x_t, time=t, out="with_condition")))
        guided = b.stop_gradient(weighted_sum(b, "guided", *terms))
        column = (t.shape[0], *[1] * (v.type.rank - 1))
        for mask in dropped:
            guided = b.where(b.reshape(mask, shape=column), v, guided, out="guided")
        low, high = guidance.interval
        for outside in [b.less(t, low)] * (low > 0.0) + [b.greater(t, high)] * (high < 1.0):
            guided = b.where(b.reshape(outside, shape=column), v, guided, out="guided")
        return guided  # type: ignore[no-any-return]


__all__ = ["MeanFlow"]
