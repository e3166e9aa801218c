"""MeanFlow: average velocities, learned from an identity that ties them to the velocity at one time.

Symbols: B batch; x the data, e the noise; z = x_t a state at time t, r the time nearer the data at which the average
ends; v the velocity dz/dt, u its average from r to t, h = |t - r|. (t - r) u is the integral of v, so u = v - (t - r)
du/dt, with du/dt along the path: a derivative of the network in the direction (v, 1) of (z, t).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.capabilities import Role
from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, derivative_along, per_sample_mean, training_method, training_noise
from latentc.components.objectives._common import chosen, publish
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.mean_flow.average_velocity import AverageVelocity


class TrainedGuidance(Closed):
    """Classifier-free guidance that the network learns: v~ = omega v + kappa v(c) + (1 - omega - kappa) v(no c).

    v(c) and v(no c) are the network's own velocities. The effective scale is omega / (1 - kappa).
    """

    omega: float = Field(1.0, gt=0, description="weight of the sample's own velocity")
    kappa: float = Field(0.5, ge=0, lt=1, description="weight of the network's own velocity under the condition")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="interval in which guidance is active, in the process's time"
    )


class MeanFlow(AverageVelocity):
    """Learns the average velocity over a time span, for sampling in one evaluation (Geng et al. 2025,
    arXiv:2505.13447). The network takes the time and, through the condition `span`, the length of the average.
    """

    kind: Literal["mean_flow"]
    guidance: TrainedGuidance | None = Field(None, description="guidance that the network is trained with; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mean_flow", "guidance": {"omega": 0.8, "kappa": 0.5}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.guidance is None:
            return
        yield from self.undropped_problems(spec)
        if self.guidance.interval[0] >= self.guidance.interval[1]:
            yield Problem(("guidance", "interval"), "the interval is empty", "give [low, high] with low < high")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        m = Symbolic(b, x0.type.rank)
        t, r, _ = self.times(b, m)
        x_t, v = self.state(b, m, t, x0, b.input("noise", x0.type))
        cond, dropped = conditions.dropping(b, given)
        if self.guidance is not None:
            v = self._guided(b, self.guidance, network, conditions, given, dropped, x_t, t, v)

        # The prediction and its derivative along the path, with r fixed.
        h, d_times = self.span(b, t, r)
        own, own_draws = training_noise(b, network)
        tangents: dict[Role, Any] = {"state": v, "time": d_times}
        operands: dict[str, Any] = {"state": x_t, "time": [t, h], "noise": own}
        u, du_dt = derivative_along(
            b, network, training_method(network), cond, tangents, out="average du_dt", **operands
        )
        target = b.stop_gradient(weighted_sum(b, "u_target", (1.0, v), (m.column(r - t, "step"), du_dt)))
        error = b.op("sub", u, target, out="error")
        squared = b.op("mul", error, error, out="squared")
        b.output(self.weighted(b, squared, "loss"), per_sample_mean(b, squared, out="mse"))
        b.finish("MeanFlow's weighted squared error and the mean squared error, one value per sample each.")
        drawn = (*self.time_draws(), Draw("noise", "normal"), *conditions.drawn(), *conditions.draws(), *own_draws)
        return publish(mb, ("loss", "mse"), ("x", *conditions.fields), drawn, self.trained(spec))

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
        low, high = guidance.interval
        outside = [b.less(t, low)] * (low > 0.0) + [b.greater(t, high)] * (high < 1.0)
        return chosen(b, [*dropped, *outside], v, guided, "guided")
