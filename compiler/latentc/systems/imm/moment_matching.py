"""Inductive moment matching: samples from two times have the same distribution at a third.

Symbols: B batch, M particles of a group, D numbers of a sample; s <= r < t times of a group; x_t, x_r states of one
sample and one noise; y_t, y_r where the network says that they lead at s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.conditions.span import Span
from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, Operands, call, training_method, training_noise
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.process import Parameterization, input_scale
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.imm.scaled_path import ScaledPath

LEAST_DISTANCE = 1e-8
"""Least distance of two particles in the kernel."""

LEAST_SPAN = 1e-6
"""Least t - s in the kernel's rate; single precision resolves times to 6e-8."""


class MomentMatching(Objective):
    """Maximum mean discrepancy at s of samples from t and from r, with a Laplace kernel (Zhou et al. 2025,
    arXiv:2503.07565, algorithm 1).

    Each group of `particles` consecutive samples of the batch has its own s, r and t. Samples from r are targets,
    without gradients. A condition of kind `span` gives the network t - s.
    """

    kind: Literal["moment_matching"]
    process: Annotated[ScaledPath, OneOfThese("processes", classes=(ScaledPath,))] = Field(
        ScaledPath(kind="scaled_path"), description="the path from noise to data"
    )
    particles: int = Field(4, ge=1, le=1_024, description="M: samples of a group; 1 is a consistency model")
    decrement: float = Field(
        160 / 2**12, gt=0, description="t / (1 - t) less r / (1 - r), if r is not bounded by s: 160 / 2^k in the paper"
    )
    least_gap: float = Field(1e-4, gt=0, lt=1, description="least t - r, if r is not bounded by s")
    power: float = Field(2.0, ge=1, le=10, description="a of the weight of a time, (1 - t)^a (…)")
    shift: float = Field(
        4.0, description="b of the weight of a time: the larger, the more weight have times near the data"
    )
    NEEDS: ClassVar[Any] = "denoise"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "moment_matching", "particles": 2}

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "preconditioned", averaged=True)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not any(isinstance(condition, Span) for condition in spec.conditions.values()):
            message = "the network does not take the span of its steps"
            yield Problem((), message, "add `conditioning.span: {kind: scaled_span}`")
        if spec.train.batch_size % self.particles:
            message = f"a batch of {spec.train.batch_size} has no whole number of groups of {self.particles} particles"
            yield Problem(("particles",), message, "set `train.batch_size` to a multiple of `particles`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        m, size = Symbolic(b, x0.type.rank), math.prod(int(n) for n in x0.shape[1:])
        u_t, u_s = (b.input(draw.name, f32(B)) for draw in self._time_draws())
        leader, members = self._groups(b, u_t)
        t, r, s = self._times(b, m, *(b.take(u, leader, axis=0) for u in (u_t, u_s)))
        noise = b.input("noise", x0.type)
        cond = conditions.dropped(b, given)
        own, own_draws = training_noise(b, network)

        def arrives(time: Var, name: str) -> Var:
            """Where the state at `time` leads at s."""
            at = m.column(time, "time")
            x = weighted_sum(b, f"x_{name}", (self.process.alpha(m, at), x0), (self.process.sigma(m, at), noise))
            return self._step(b, m, network, cond, x, time, s, own, f"y_{name}")

        y_t, y_r = arrives(t, "t"), b.stop_gradient(arrives(r, "r"), out="target")
        # A step from t to s changes x by (t - s) sigma_data F, so the kernel compares what corresponds to outputs F.
        step = b.maximum(b.op("sub", t, s, out="span"), LEAST_SPAN, out="span")
        rate = b.reshape(1.0 / (step * (self.process.sigma_data * size)), shape=(step.shape[0], 1), out="rate")
        others_t, others_r = (b.take(y, members, axis=0, out=f"others_{n}") for y, n in ((y_t, "t"), (y_r, "r")))
        alike = b.add(_kernel(b, y_t, others_t, rate), _kernel(b, y_r, others_r, rate), out="alike")
        each = b.op("sub", alike, 2.0 * _kernel(b, y_t, others_r, rate), out="each")
        mmd = b.mean(each, axes=(1,), keepdims=False, out="mmd")
        b.output(b.op("mul", mmd, self._weight(b, t), out="loss"), b.stop_gradient(mmd))
        b.finish("The weighted maximum mean discrepancy of each particle's group, its own share, and it unweighted.")
        drawn = (*self._time_draws(), Draw("noise", "normal"), *conditions.drawn(), *conditions.draws(), *own_draws)
        return publish(mb, ("loss", "mmd"), ("x", *conditions.fields), drawn, self.trained(spec))

    def _time_draws(self) -> tuple[Draw, Draw]:
        return Draw("u_t", "uniform"), Draw("u_s", "uniform")

    def _groups(self, b: Builder, like: Var) -> tuple[Var, Var]:
        """i64[B]: the first sample of each sample's group, and i64[B, M]: all of the group."""
        one = b.fill_like(like, 1.0)
        place = b.op("sub", b.cumsum(one, axis=0), 1.0, out="place")
        first = b.mul(b.floor(b.div(place, float(self.particles))), float(self.particles), out="first")
        last = b.op("sub", b.sum(one, axes=(0,), keepdims=True), 1.0, out="last")
        column = b.reshape(first, shape=(first.shape[0], 1))
        members = column + b.constant(np.arange(float(self.particles)), "f32", out="members")
        # The last group is smaller if a validation's batch is no multiple of M: its last sample is repeated.
        return b.cast(first, to="i64", out="leader"), b.cast(b.minimum(members, last), to="i64", out="members")

    def _times(self, b: Builder, m: Symbolic, u_t: Var, u_s: Var) -> tuple[Var, Var, Var]:
        """t, r and s f32[B] from draws that the samples of a group share."""
        t = self.process.training_time(m, u_t, "preconditioned")
        least, _ = self.process.time_range("preconditioned")
        s = m.affine(u_s * (t - least if least else t), 1.0, least, out="s")
        level = b.op("sub", b.div(t, 1.0 - t), self.decrement, out="level")
        shortly = b.minimum(b.div(level, 1.0 + b.maximum(level, 0.0)), t - self.least_gap, out="shortly")
        return t, b.maximum(s, shortly, out="r"), s

    def _step(
        self, b: Builder, m: Symbolic, network: Network, cond: Operands, x: Var, t: Var, s: Var, own: Any, out: str
    ) -> Var:
        """x - (t - s) sigma_data F."""
        span, scale = b.op("sub", t, s, out="step"), input_scale(self.process, m, m.column(t, "time"))
        time = self.process.network_time(m, t)
        scaled = b.mul(x, scale, out="scaled")
        f = call(b, network, training_method(network), cond, out="f", state=scaled, time=[time, span], noise=own)
        return weighted_sum(b, out, (1.0, x), (m.column(span * -self.process.sigma_data), f))

    def _weight(self, b: Builder, t: Var) -> Var:
        """f32[B]: half the sigmoid of b - lambda, times -d lambda / dt, times alpha^a / (alpha^2 + sigma^2).

        alpha = 1 - t, sigma = t, lambda = 2 log(alpha / sigma); without the factors that cancel at t = 0.
        """
        left = b.op("sub", 1.0, t, out="left")
        near = t * t + left * left * math.exp(-self.shift)
        weight = b.div(t, near * (t * t + left * left), out="weight")
        if self.power == 1.0:
            return weight
        rest = left if self.power == 2.0 else b.pow(left, b.scalar(self.power - 1.0, left), out="rest")
        return b.op("mul", weight, rest, out="weight")


def _kernel(b: Builder, x: Var, others: Var, rate: Var) -> Var:
    """f32[B, M]: exp(-`rate` |x - y|) of x [B, ...] and each y of its group [B, M, ...]."""
    difference = b.reshape(x, shape=(x.shape[0], 1, *x.shape[1:])) - others
    square = b.sum(difference * difference, axes=tuple(range(2, others.type.rank)), keepdims=False, out="square")
    # The maximum of squares: a root has no derivative at 0, the distance of a particle from itself.
    distance = b.sqrt(b.maximum(square, LEAST_DISTANCE**2), out="distance")
    return b.exp(b.neg(distance * rate), out="kernel")
