"""Transition models: average velocities, learned with a derivative that is a difference of two evaluations.

Symbols: B batch; x0 the data; x_t a state at time t (0 at the data, 1 at the noise), v the velocity there; r <= t;
F(x, t, r) the network, the average velocity from t to r, which is v - (t - r) dF/dt along the path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, OneOfThese
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean, training_method, training_noise
from latentc.components.objectives._alignment import feature_problems, mean_cosine, misdirection
from latentc.components.objectives._common import publish
from latentc.components.parts import Fraction, Problem, Spec, under
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.interpolant import Interpolant
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple, f32
from latentc.ir.types import B
from latentc.systems.mean_flow.average_velocity import AverageVelocity


class FeatureTarget(Closed):
    """Features of a frozen encoder, data fields [T, C] that the network's projections are aligned with."""

    fields: tuple[str, ...] = Field(
        ("features",), min_length=1, max_length=16, description="data fields of the encoders' features"
    )
    weight: float = Field(1.0, gt=0, description="weight of 1 minus their mean cosine")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        """Fields that are not there, or do not fit the projections of `main`."""
        for problem in feature_problems(spec, self.fields):
            yield Problem(("fields", *problem.path[1:]), problem.message, problem.help)


class Transition(AverageVelocity):
    """Learns the average velocity over any span of time (TiM, Wang et al. 2025, arXiv:2509.04394).

    The derivative along the path is a central difference of two evaluations of the network, without gradients, so that
    no layer needs a forward-mode derivative. Spans weigh 1 / sqrt(tan t - tan r + 1).
    """

    kind: Literal["transition"]
    process: Annotated[Interpolant, OneOfThese("processes", classes=(Interpolant,))] = Field(
        Interpolant(kind="interpolant", noise_time=1, times="logit_normal", logit_mean=-0.4),
        description="the straight path from noise at time 1 to data, and the distribution of both times",
    )
    averaged: float = Field(
        0.5, ge=0, le=1, description="fraction of samples with a nonzero span; the others are plain flow matching"
    )
    to_data: Fraction = Field(0.1, description="fraction of samples whose span ends at the data, of those with a span")
    difference: float = Field(0.005, gt=0, lt=0.5, description="half the distance of the two evaluations in time")
    power: float = Field(1.0, ge=0, le=2, description="p of the weight (e + eps)^-p of an error e; 0: unweighted")
    eps: float = Field(1e-5, gt=0, description="added to the error in the weight")
    direction: bool = Field(
        True, description="add 1 minus the cosine of prediction and target, over the channels, to the squared error"
    )
    alignment: FeatureTarget | None = Field(None, description="alignment with an encoder's features; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "transition"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "denoise", () if self.alignment is None else ("features",)),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.process.path != "linear" or self.process.noise_time != 1:
            message = "transitions are written for the straight path with noise at time 1"
            yield Problem(("process",), message, "set `path: linear` and `noise_time: 1`")
        if self.to_data > self.averaged:
            message = f"{self.to_data:g} of the samples are to reach the data, but only {self.averaged:g} have a span"
            yield Problem(("to_data",), message, f"set it to at most `averaged`, {self.averaged:g}")
        if self.alignment is not None:
            yield from under("alignment", problems=self.alignment.problems(spec))

    def times(self, b: Builder, m: Symbolic) -> tuple[Var, Var, Var]:
        t, r, matched = super().times(b, m)
        instant = b.given("instant")
        assert instant is not None
        return t, b.where(b.less(instant, 1.0 - self.to_data), r, b.fill_like(r, 0.0), out="r"), matched

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        fields = () if self.alignment is None else self.alignment.fields
        theirs = [b.input(name, f32(B, *spec.data.fields[name].shape)) for name in fields]
        m = Symbolic(b, x0.type.rank)
        t, r, _ = self.times(b, m)
        noise = b.input("noise", x0.type)
        x_t, v = self.state(b, m, t, x0, noise)
        cond = conditions.dropped(b, given)
        own, own_draws = training_noise(b, network)
        method = training_method(network)
        names = ["average", *(f"ours_{name}" for name in fields)]
        span = b.op("sub", t, r, out="span")
        average, *ours = as_tuple(
            call(b, network, method, cond, out=" ".join(names), state=x_t, time=[t, span], noise=own)
        )
        change = self._derivative(b, m, network, cond, x0, noise, t, r)
        implied = weighted_sum(b, "implied", (1.0, v), (m.column(r - t, "step"), change))
        target = b.stop_gradient(implied, out="target")
        error = b.op("sub", average, target, out="error")
        mse = per_sample_mean(b, error * error, out="mse")
        total = b.op("add", mse, misdirection(b, average, target), out="total") if self.direction else mse
        rising = b.op("sub", _tangent(b, t), _tangent(b, r), out="rising")
        loss, values = b.div(self._weighted(b, total), b.sqrt(rising + 1.0), out="loss"), [mse]
        if self.alignment is not None:
            cosines = [mean_cosine(b, x, y) for x, y in zip(theirs, ours, strict=True)]
            share = 1.0 / len(cosines)
            misaligned = 1.0 - weighted_sum(b, "cosine", *((share, cosine) for cosine in cosines))
            loss = weighted_sum(b, "loss", (1.0, loss), (self.alignment.weight, misaligned))
            values.append(misaligned)
        b.output(loss, *values)
        b.finish("What is minimised, the mean squared error, and one minus the features' cosine if they are aligned.")
        drawn = (*self.time_draws(), Draw("noise", "normal"), *conditions.drawn(), *conditions.draws(), *own_draws)
        metrics = ("loss", "mse", "misalignment")[: 1 + len(values)]
        return publish(mb, metrics, ("x", *conditions.fields, *fields), drawn, self.trained(spec))

    def _derivative(
        self, b: Builder, m: Symbolic, network: Network, cond: Operands, x0: Var, noise: Var, t: Var, r: Var
    ) -> Var:
        """f32[B, C, ...]: the central difference of the network along the path, with r fixed, over the time."""

        def nearby(shift: float, name: str) -> Var:
            time = b.add(t, shift, out=f"t_{name}")
            x, _ = self.state(b, m, time, x0, noise)
            span = b.op("sub", time, r, out=f"span_{name}")
            return call(b, network, "forward", cond, out=name, state=x, time=[time, span])

        rate = 1.0 / (2.0 * self.difference)
        after, before = nearby(self.difference, "after"), nearby(-self.difference, "before")
        return weighted_sum(b, "change", (rate, after), (-rate, before))

    def _weighted(self, b: Builder, error: Var) -> Var:
        """f32[B]: an error over its own size."""
        if not self.power:
            return error
        weight = b.pow(error + self.eps, b.scalar(-self.power, error), out="weight")
        return b.op("mul", error, b.stop_gradient(weight), out="weighted")


def _tangent(b: Builder, t: Var) -> Var:
    return b.div(b.sin(t), b.cos(t), out="tangent")
