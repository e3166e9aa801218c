"""Shortcut models: a step learns where two steps of half its size end; the least steps learn flow matching.

Symbols: B batch; x0 the data; N steps of a sample from noise to data, d = 1 / N their size;
M = `finest`, the most steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean, training_method, training_noise
from latentc.components.objective import Objective
from latentc.components.objectives._common import chosen, publish
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.flow_map import FlowMap
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B
from latentc.systems.shortcut.least_noise_path import LeastNoisePath
from latentc.systems.shortcut.step_size import StepSize


class Shortcut(Objective):
    """Mean squared error of the average velocity over a step (Frans et al. 2024, arXiv:2410.12557, algorithm 1).

    A share `bootstrap` of the samples have steps of size 1, 1/2, … 2 / `finest`, whose target is the mean of two half
    steps of the network `target`; the others are flow matching, as steps of the least size. The condition `step_size`
    gives the network the size.
    """

    kind: Literal["shortcut"]
    process: Annotated[LeastNoisePath, OneOfThese("processes", classes=(LeastNoisePath,))] = Field(
        LeastNoisePath(kind="least_noise_path"), description="the path from noise to data"
    )
    target: str | None = Field(
        None, description="one of `networks` that makes the half steps, an average of `main`; null: `main` itself"
    )
    bootstrap: float = Field(
        0.125, ge=0, le=1, description="fraction of samples that learn from half steps; the others are flow matching"
    )
    guidance: float | None = Field(
        None, description="scale of guidance of the least half steps; the step above learns it; null: none"
    )
    clip: float | None = Field(4.0, gt=0, description="bound of states and velocities of half steps; null: none")
    NEEDS: ClassVar[Any] = "denoise"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "shortcut", "bootstrap": 0.5, "guidance": 1.5}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        own = () if self.target is None else (Need(self.target, "denoise", place=("target",)),)
        return *super().needs(spec), *own

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "flow_velocity", averaged=True)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        size = _size(spec)
        if size is None:
            message = "the network does not take the size of its step"
            yield Problem((), message, "add `conditioning.step_size: {kind: step_size}`")
            return
        if size.finest & (size.finest - 1):
            message = f"steps are halved, but `finest: {size.finest}` of the condition `step_size` is no power of two"
            yield Problem((), message, "set it to 128")
        sampler = spec.sampler
        if isinstance(sampler, FlowMap) and (sampler.steps & (sampler.steps - 1) or sampler.steps > size.finest):
            message = f"the network learns steps of 1, 1/2, … 1/{size.finest}, but the sampler takes {sampler.steps}"
            yield Problem((), message, f"set `sampler.steps` to a power of two up to {size.finest}")
        if self.guidance is not None and not any(condition.nullable for condition in spec.conditions.values()):
            message = "guidance needs a network trained with dropped conditions, but no condition is ever dropped"
            yield Problem(("guidance",), message, "set the `dropout` of a condition, or leave `guidance` out")
        found = spec.networks.get(self.target or "")
        if found is not None and found.average_of != "main":
            message = f"network `{self.target}` is no average of `main`"
            yield Problem(("target",), message, f"use `networks.{self.target}: {{kind: average}}`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions, size = networks["main"], Conditions(spec, networks), _size(spec)
        assert size is not None  # `problems` has looked
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        m, levels = Symbolic(b, x0.type.rank), size.finest.bit_length() - 1
        level, share, u = b.input("level", i64(B)), b.input("share", f32(B)), b.input("u", f32(B))
        halved = b.less(share, self.bootstrap, out="halved")
        steps = b.take(b.constant(2.0 ** np.arange(levels), "f32", out="powers"), level, axis=0, out="steps")
        steps = b.where(halved, steps, float(size.finest), out="steps")
        t, d = b.div(b.floor(u * steps), steps, out="t"), b.div(b.fill_like(steps, 1.0), steps, out="d")

        column = m.column(t, "time")
        noise = b.input("noise", x0.type)
        x_t = weighted_sum(b, "x_t", (self.process.alpha(m, column), x0), (self.process.sigma(m, column), noise))
        d_alpha, d_sigma = self.process.derivatives(m, column)
        v = weighted_sum(b, "v", (d_alpha, x0), (d_sigma, noise))
        least = b.equal(level, levels - 1) if self.guidance is not None else None
        halves = HalfSteps(b, networks[self.target or "main"], conditions, given, self.guidance, least, self.clip)
        made = halves.mean(m, x_t, t, d * 0.5)
        target = b.stop_gradient(b.where(m.column(halved), made, v, out="target"))

        # Samples that learn from half steps keep their conditions, as those steps do.
        dropped = conditions.dropped(b, given)
        cond = {name: chosen(b, [halved], x, dropped[name], name) for name, x in given.items()}
        own, own_draws = training_noise(b, network)
        prediction = call(
            b, network, training_method(network), cond, out="prediction", state=x_t, time=[t, d], noise=own
        )
        error = b.op("sub", prediction, target, out="error")
        b.output(per_sample_mean(b, error * error, out="loss"))
        b.finish("The mean squared error of the average velocity over a step, one value per sample.")
        uniform = (Draw(name, "uniform") for name in ("share", "u"))
        own_draws = (Draw("level", "integers", {"high": levels}), *uniform, Draw("noise", "normal"), *own_draws)
        drawn = (*conditions.drawn(), *conditions.draws(), *own_draws)
        return publish(mb, ("loss",), ("x", *conditions.fields), drawn, self.trained(spec))


@dataclass(frozen=True)
class HalfSteps:
    """Two half steps of `network`, guided at the scale `guidance` for the samples where `least` bool[B] is true."""

    b: Builder
    network: Network
    conditions: Conditions
    given: Operands
    guidance: float | None
    least: Var | None
    clip: float | None

    def mean(self, m: Symbolic, x: Var, t: Var, half: Var) -> Var:
        """f32[B, C, ...]: the mean velocity of two steps of size `half` f32[B] from x f32[B, C, ...] at t f32[B]."""
        start = self._velocity(m, x, t, half, "v_start")
        middle = self._bounded(weighted_sum(self.b, "x_middle", (1.0, x), (m.column(half), start)), "x_middle")
        end = self._velocity(m, middle, self.b.op("add", t, half, out="t_middle"), half, "v_end")
        return self._bounded(weighted_sum(self.b, "v_mean", (0.5, start), (0.5, end)), "v_mean")

    def _bounded(self, x: Var, out: str) -> Var:
        return x if self.clip is None else self.b.clamp(x, low=-self.clip, high=self.clip, out=out)

    def _velocity(self, m: Symbolic, x: Var, t: Var, half: Var, out: str) -> Var:
        b = self.b
        v = call(b, self.network, "forward", self.given, out=out, state=x, time=[t, half])
        if self.guidance is None or self.least is None:
            return v
        null = self.conditions.null(b, self.given)
        without = call(b, self.network, "forward", null, out="without", state=x, time=[t, half])
        guided = weighted_sum(b, "guided", (self.guidance, v), (1.0 - self.guidance, without))
        return b.where(m.column(self.least), guided, v, out=out)


def _size(spec: Spec) -> StepSize | None:
    return next((one for one in spec.conditions.values() if isinstance(one, StepSize)), None)
