"""SoFlow: the solution of a flow's equation, learned by flow matching and by the consistency of two starts.

Symbols: B batch; x0 the data, x_t a state at time t (0 at the data, 1 at the noise), v the velocity there; s < l < t
times; F(x, t, s) the network, the average velocity from t to s; f(x, t, s) = x + (s - t) F the solution at s from x_t.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, OneOfThese
from latentc.components.conditions.span import Span
from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean, training_method, training_noise
from latentc.components.objective import Objective
from latentc.components.objectives._common import chosen, publish, risen
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.process import Parameterization, time_column
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B

Normal = tuple[float, Annotated[float, Field(gt=0)]]
"""Mean and standard deviation of the normal variate whose sigmoid is a time."""

GAP = 1e-4
"""Least distance of two times."""


class DecayingGuidance(Closed):
    """Classifier-free guidance that the network learns: mix (v + w (scale - 1) (v - F(no c))) + (1 - mix) F(c).

    F are the network's own velocities; w is 1 up to the time `decay` and falls to 0 at the noise.
    """

    scale: float = Field(3.0, gt=1, description="scale of guidance")
    decay: float = Field(0.8, gt=0, le=1, description="time from which on guidance fades towards the noise; 1: never")
    mix: float = Field(0.25, gt=0, le=1, description="share of the guided velocity beside the network's own")

    def weight(self, b: Builder, t: Var) -> Var | float:
        """f32[B]: w at times t f32[B]."""
        if self.decay == 1.0:
            return 1.0
        left = b.clamp((1.0 - t) * (1.0 / (1.0 - self.decay)), low=0.0, high=1.0 - 1e-6, out="left")
        faded = 1.0 - b.exp(left / (1.0 - left) * -0.025)
        return b.where(b.less_equal(t, self.decay), 1.0, faded, out="fading")


class SolutionFlow(Objective):
    """Flow matching, and consistency: solutions at s from x_t, and from a state shortly after it at l, are to agree
    (Luo et al. 2025, arXiv:2512.15657). The condition `span` gives the network t - s.
    """

    kind: Literal["solution_flow"]
    process: Annotated[Interpolant, OneOfThese("processes", classes=(Interpolant,))] = Field(
        Interpolant(kind="interpolant", noise_time=1, times="logit_normal", logit_mean=-0.2),
        description="the straight path from noise at time 1 to data, and the times of flow matching",
    )
    matched: Fraction = Field(0.75, description="fraction of samples of flow matching; the others are of consistency")
    start: Normal = Field(
        (0.2, 0.8), description="mean and standard deviation of the normal variate whose sigmoid is t, of consistency"
    )
    end: Normal = Field((-1.0, 0.8), description="the same for s, which is at most t")
    first_gap: float = Field(0.1, gt=0, le=1, description="(t - l) / (t - s) at the beginning of training")
    last_gap: float = Field(
        0.002, gt=0, le=1, description="the same at the end of training; between them the logarithm is linear"
    )
    guidance: DecayingGuidance | None = Field(None, description="guidance that the network is trained with; null: none")
    power: float = Field(1.0, ge=0, le=2, description="p of the weight (mse + eps)^-p of an error; 0: unweighted")
    eps: float = Field(0.01, gt=0, description="added to the mean squared error in the weight")
    NEEDS: ClassVar[Any] = "denoise"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "solution_flow", "guidance": {"scale": 2.0}}

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "flow_velocity", averaged=True)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.process.path != "linear" or self.process.noise_time != 1:
            message = "solutions are written for the straight path with noise at time 1"
            yield Problem(("process",), message, "set `path: linear` and `noise_time: 1`")
        if not any(isinstance(condition, Span) for condition in spec.conditions.values()):
            message = "the network does not take the span over which its velocity is averaged"
            yield Problem((), message, "add `conditioning.span: {kind: span}`")
        if self.guidance is not None and not any(condition.nullable for condition in spec.conditions.values()):
            message = "guidance needs a network trained with dropped conditions, but no condition is ever dropped"
            yield Problem(("guidance",), message, "set the `dropout` of a condition, or leave `guidance` out")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        m = Symbolic(b, x0.type.rank)
        matched, t, s, shortly = self._times(b, m, spec.train.steps)
        at = time_column(self.process, m, t)
        noise = b.input("noise", x0.type)
        x_t = weighted_sum(b, "x_t", (self.process.alpha(m, at), x0), (self.process.sigma(m, at), noise))
        d_alpha, d_sigma = self.process.derivatives(m, at)
        v = weighted_sum(b, "v", (d_alpha, x0), (d_sigma, noise))
        cond, dropped = conditions.dropping(b, given)
        if self.guidance is not None:
            v = self._guided(b, m, self.guidance, network, conditions, given, dropped, x_t, t, v)

        own, own_draws = training_noise(b, network)
        method = training_method(network)
        span = b.op("sub", t, s, out="span")
        average = call(b, network, method, cond, out="average", state=x_t, time=[t, span], noise=own)
        gap = b.op("sub", t, shortly, out="gap")
        x_l = weighted_sum(b, "x_l", (1.0, x_t), (m.column(b.neg(gap)), v))
        rest = b.op("sub", shortly, s, out="rest")
        later = call(b, network, method, cond, out="later", state=x_l, time=[shortly, rest], noise=own)
        f_t = weighted_sum(b, "f_t", (1.0, x_t), (m.column(b.neg(span)), average))
        f_l = weighted_sum(b, "f_l", (1.0, x_l), (m.column(b.neg(rest)), later))
        # At one time the network is to predict v; else the solutions are to agree, whatever the gap of their starts.
        quotient = b.div(b.op("sub", f_t, f_l, out="change"), m.column(gap), out="quotient")
        error = chosen(b, [matched], b.op("sub", average, v, out="error"), quotient, "error")
        mse = per_sample_mean(b, error * error, out="mse")
        weight = b.pow(mse + self.eps, b.scalar(-self.power, mse), out="weight")
        weighted = b.stop_gradient(b.op("mul", error, m.column(weight)), out="weighted")
        # The authors' form: the gradient of consistency is that of its squared error over 2 (t - s) / (t - l).
        consistency = per_sample_mean(b, b.neg(average * weighted), out="consistency")
        flow = b.op("mul", mse, b.stop_gradient(weight), out="flow")
        b.output(b.where(matched, flow, consistency, out="loss"), b.stop_gradient(mse))
        b.finish("What is minimised, and the mean squared error, one value per sample each.")
        drawn = (*self._time_draws(), Draw("noise", "normal"), *conditions.drawn(), *conditions.draws(), *own_draws)
        return publish(mb, ("loss", "mse"), ("x", *conditions.fields), drawn, self.trained(spec))

    def _time_draws(self) -> tuple[Draw, ...]:
        start, end = Draw("u_t", "normal"), Draw("u_s", "normal")
        return Draw("share", "uniform"), self.process.draw(), start, end

    def _times(self, b: Builder, m: Symbolic, steps: int) -> tuple[Var, Var, Var, Var]:
        """bool[B]: true for flow matching, then t, s and l f32[B], with s = t for flow matching. Adds the draws."""
        share, u, u_t, u_s = (b.input(draw.name, f32(B)) for draw in self._time_draws())
        matched = b.less(share, self.matched, out="matched")
        start, end = (m.sigmoid(m.affine(z, n[1], n[0])) for z, n in ((u_t, self.start), (u_s, self.end)))
        start = b.maximum(start, GAP)
        t = b.where(matched, self.process.training_time(m, u, "flow_velocity"), start, out="t")
        end = b.minimum(end, t - GAP)
        rate = b.exp(risen(b, steps) * math.log(self.last_gap / self.first_gap) + math.log(self.first_gap), out="rate")
        shortly = b.minimum(t + (end - t) * rate, t - GAP, out="shortly")
        return matched, t, b.where(matched, t, end, out="s"), shortly

    def _guided(
        self,
        b: Builder,
        m: Symbolic,
        guidance: DecayingGuidance,
        network: Network,
        conditions: Conditions,
        given: Operands,
        dropped: list[Var],
        x_t: Var,
        t: Var,
        v: Var,
    ) -> Var:
        """v with guidance by the network itself, where no condition is dropped."""
        null = conditions.null(b, given)
        without = call(b, network, "forward", null, state=x_t, time=t, out="without")
        weight = guidance.weight(b, t)
        gain = weight * (guidance.scale - 1.0)
        scaled = m.column(gain, "gain") if isinstance(gain, Var) else gain
        guided = b.op("add", v, scaled * b.op("sub", v, without), out="guided")
        if guidance.mix != 1.0:
            own = call(b, network, "forward", given, state=x_t, time=t, out="own")
            guided = weighted_sum(b, "guided", (guidance.mix, guided), (1.0 - guidance.mix, own))
        return b.stop_gradient(chosen(b, dropped, v, guided, "guided"))
