"""Shared by the objectives that learn average velocities: times, spans and the weight of the error.

Symbols: B batch; t a time, r the time nearer the data at which the average ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.conditions.span import Span
from latentc.components.contract import Draw
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.process import Parameterization, time_column
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B


class AverageVelocity(Objective):
    """Learns the average velocity over a span of time. The condition `span` gives the network the span."""

    process: Annotated[Interpolant, OneOfThese("processes", classes=(Interpolant,))] = Field(
        Interpolant(kind="interpolant", noise_time=1, times="logit_normal", logit_mean=-0.4),
        description="the path from noise to data, and the distribution of both times",
    )
    averaged: float = Field(
        0.25, ge=0, le=1, description="fraction of samples with a nonzero span; the others are plain flow matching"
    )
    end: tuple[float, Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="mean and standard deviation of the normal variate whose sigmoid is r, at most t (py-meanflow's "
        "second configuration); null: t and r are the greater and lesser of two times that `process` draws",
    )
    power: float = Field(
        1.0, ge=0, le=2, description="p of the weight (e + eps)^-p, where e is the summed squared error; 0: unweighted"
    )
    eps: float = Field(0.01, gt=0, description="added to the summed squared error in the weight")

    NEEDS = "denoise"

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "flow_velocity", averaged=True)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.end is not None and self.process.times != "logit_normal":
            message = f"r is the sigmoid of a normal variate, but `times` of the process is {self.process.times}"
            yield Problem(("end",), message, "set `process.times: logit_normal`, or leave `end` out")
        if not any(isinstance(condition, Span) for condition in spec.conditions.values()):
            message = "the network does not take the span over which its velocity is averaged"
            yield Problem((), message, "add `conditioning.span: {kind: span}`")

    def undropped_problems(self, spec: Spec) -> Iterator[Problem]:
        """Guidance of a network that is never trained without its conditions."""
        if not any(condition.nullable for condition in spec.conditions.values()):
            message = "guidance needs a network trained with dropped conditions, but no condition is ever dropped"
            yield Problem(("guidance",), message, "set the `dropout` of a condition, or leave `guidance` out")

    @property
    def _end_process(self) -> Interpolant:
        """The process whose training times are those of r."""
        if self.end is None:
            return self.process
        mean, deviation = self.end
        return self.process.model_copy(update={"times": "logit_normal", "logit_mean": mean, "logit_std": deviation})

    @property
    def falls(self) -> bool:
        """True if the time falls from noise to data."""
        return self.process.first > self.process.last

    def time_draws(self) -> tuple[Draw, ...]:
        """The draws of both times, and the one that decides whether they are equal."""
        end = self._end_process.draw().distribution
        return self.process.draw(), Draw("u_r", end), Draw("instant", "uniform")

    def times(self, b: Builder, m: Symbolic) -> tuple[Var, Var, Var]:
        """(t, r) f32[B] with t the one nearer the noise, and bool[B]: true for flow matching, where r is t.

        Adds the draws as inputs.
        """
        u, u_r, instant = (b.input(draw.name, f32(B)) for draw in self.time_draws())
        first = self.process.training_time(m, u, "flow_velocity")
        second = self._end_process.training_time(m, u_r, "flow_velocity")
        later, sooner = ("maximum", "minimum") if self.falls else ("minimum", "maximum")
        t = first if self.end is not None else b.op(later, first, second, out="t")
        matched = b.less(instant, 1.0 - self.averaged)
        return t, b.where(matched, t, b.op(sooner, first, second), out="r"), matched

    def span(self, b: Builder, t: Var, r: Var) -> tuple[Var, list[Var]]:
        """h = |t - r| f32[B], and the derivatives by t of t and of h."""
        one = b.fill_like(t, 1.0)
        h = b.op("sub", t, r, out="h") if self.falls else b.op("sub", r, t, out="h")
        return h, [one, one if self.falls else b.fill_like(t, -1.0)]

    def state(self, b: Builder, m: Symbolic, t: Var, x0: Var, noise: Var) -> tuple[Var, Var]:
        """x_t, and the velocity v of the path at t."""
        at = time_column(self.process, m, t)
        x_t = weighted_sum(b, "x_t", (self.process.alpha(m, at), x0), (self.process.sigma(m, at), noise))
        d_alpha, d_sigma = self.process.derivatives(m, at)
        return x_t, weighted_sum(b, "v", (d_alpha, x0), (d_sigma, noise))

    def weighted(self, b: Builder, squared: Var, out: str) -> Var:
        """f32[B]: the weighted sum of squared errors."""
        total = b.sum(squared, axes=tuple(range(1, squared.type.rank)), keepdims=False, out="sum_of_squares")
        return self.normalised(b, total, out)

    def normalised(self, b: Builder, total: Var, out: str) -> Var:
        """f32[B]: an error f32[B], weighted."""
        if not self.power:
            return total
        weight = b.pow(total + self.eps, b.scalar(-self.power, total), out="weight")
        return b.op("mul", total, b.stop_gradient(weight), out=out)
