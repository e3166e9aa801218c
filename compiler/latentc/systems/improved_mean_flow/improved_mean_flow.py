"""Improved MeanFlow: a loss of the velocity, with guidance of any scale and interval as conditions.

Symbols as in `mean_flow`: V = u + (t - r) du/dt is the velocity that the average u implies; w the scale of guidance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.backbone import not_taken
from latentc.components.capabilities import Role
from latentc.components.conditions.setting import SettingCondition
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, derivative_along, per_sample_mean
from latentc.components.objectives._common import chosen, publish
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.mean_flow.average_velocity import AverageVelocity

METHOD = "train_forward"


class GuidanceConditions(Closed):
    """The conditions of kind `setting` that describe guidance: v + (1 - 1 / w) (v(c) - v(no c))."""

    scale: str = Field("omega", description="condition that provides the scale w")
    start: str = Field("t_min", description="condition that provides the smallest time at which guidance is active")
    end: str = Field("t_max", description="condition that provides the largest such time")

    @property
    def names(self) -> tuple[str, str, str]:
        return self.scale, self.start, self.end


class ImprovedMeanFlow(AverageVelocity):
    """MeanFlow as a regression of the velocity (Geng et al. 2025, arXiv:2512.02012).

    The derivative is taken along the velocity predicted by the network's second head rather than the sample's velocity,
    which the network does not see. Scale and interval of guidance are conditions that requests set.
    """

    kind: Literal["improved_mean_flow"]
    averaged: float = Field(
        0.5, ge=0, le=1, description="fraction of samples with a nonzero span; the others are plain flow matching"
    )
    guidance: GuidanceConditions | None = Field(None, description="conditions that describe the guidance; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "improved_mean_flow"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "denoise", ("features",)),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.guidance is None:
            return
        yield from self.undropped_problems(spec)
        for field, name in zip(("scale", "start", "end"), self.guidance.names, strict=True):
            if not isinstance(spec.conditions.get(name), SettingCondition):
                message = f"no condition `{name}` can be set by requests"
                yield Problem(("guidance", field), message, f"add `conditioning.{name}: {{kind: setting}}`")
        yield from not_taken(spec, "main", self.guidance.names, "guidance", ("guidance",))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        m = Symbolic(b, x0.type.rank)
        t, r, matched = self.times(b, m)
        x_t, v = self.state(b, m, t, x0, b.input("noise", x0.type))
        if self.guidance is not None:
            given = self._over_all_times(b, self.guidance, given, matched)
        cond, dropped = conditions.dropping(b, given)
        v_c, guided = self._velocities(b, network, conditions, given, x_t, t, v)
        target = b.stop_gradient(chosen(b, dropped, v, guided, "target"))

        h, d_times = self.span(b, t, r)
        tangents: dict[Role, Any] = {"state": v_c, "time": d_times}
        operands: dict[str, Any] = {"state": x_t, "time": [t, h]}
        u, du_dt = derivative_along(b, network, METHOD, cond, tangents, out="average du_dt", **operands)
        _, predicted = call(b, network, METHOD, cond, out="average_2 predicted", **operands)
        implied = weighted_sum(b, "implied", (1.0, u), (m.column(t - r, "step"), b.stop_gradient(du_dt)))
        squares = []
        for value in (implied, predicted):
            error = b.op("sub", value, target, out="error")
            squares.append(b.op("mul", error, error, out="squared"))
        loss = b.op("add", *(self.weighted(b, squared, "weighted") for squared in squares), out="loss")
        metrics = {n: per_sample_mean(b, s, out=n) for n, s in zip(("mse", "mse_v"), squares, strict=True)}
        for name, (weight, distance) in self.distances(b, m, networks, x0, x_t, t, u).items():
            loss = weighted_sum(b, "loss", (1.0, loss), (weight, self.normalised(b, distance, "weighted")))
            metrics[name] = distance
        b.output(loss, *metrics.values())
        b.finish("Weighted errors, then the mean squared errors of both heads, one value per sample each.")
        drawn = (*self.time_draws(), Draw("noise", "normal"), *conditions.drawn(), *conditions.draws())
        return publish(mb, ("loss", *metrics), ("x", *conditions.fields), drawn, self.trained(spec))

    def distances(
        self, b: Builder, m: Symbolic, networks: Mapping[str, Network], x0: Var, x_t: Var, t: Var, u: Var
    ) -> dict[str, tuple[float, Var]]:
        """Further errors f32[B] of the average velocity u, with their weights, by the names of their metrics."""
        return {}

    def _over_all_times(
        self, b: Builder, guidance: GuidanceConditions, given: Mapping[str, Var], matched: Var
    ) -> dict[str, Var]:
        """The operands, with all times as the interval of guidance for the samples of flow matching."""
        ends = {guidance.start: 0.0, guidance.end: 1.0}
        whole = {name: b.where(matched, b.fill_like(given[name], x), given[name], out=name) for name, x in ends.items()}
        return {**given, **whole}

    def _velocities(
        self, b: Builder, network: Network, conditions: Conditions, given: Mapping[str, Var], x_t: Var, t: Var, v: Var
    ) -> tuple[Var, Var]:
        """(the velocity that the second head predicts under the conditions, v with guidance); without gradients."""

        def velocity(cond: Mapping[str, Var], out: str) -> Var:
            _, made = call(b, network, METHOD, cond, state=x_t, time=t, out=f"average_{out} {out}")
            return b.stop_gradient(made)

        if self.guidance is None:
            return velocity(given, "v_c"), v
        scale, start, end = (given[name] for name in self.guidance.names)
        one = b.fill_like(t, 1.0)
        w = chosen(b, [b.less(t, start), b.greater(t, end)], one, scale, "w")
        whole = {self.guidance.start: b.fill_like(t, 0.0), self.guidance.end: one}
        v_c = velocity({**given, **whole, self.guidance.scale: w}, "v_c")
        v_u = velocity({**conditions.null(b, given), **whole, self.guidance.scale: one}, "v_u")
        gain = b.reshape(1.0 - 1.0 / w, shape=(t.shape[0], *[1] * (v.type.rank - 1)), out="gain")
        return v_c, b.op("add", v, gain * (v_c - v_u), out="guided")
