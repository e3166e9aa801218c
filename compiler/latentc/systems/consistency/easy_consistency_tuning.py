"""Easy consistency tuning: consistency training whose pairs of times come from continuous ones, ever closer.

Symbols: B batch; x0 the data; t a noise level, r the lower level of its pair; D(x, t) EDM's denoised sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, training_method, training_noise
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, step_of
from latentc.components.objectives.denoising import Noised, noised_at
from latentc.components.parts import Problem, Spec
from latentc.components.processes.edm import Edm
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.process import Boundary, Parameterization
from latentc.components.sums import Coefficient
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.consistency.consistency_loss import problems_of_ends

_BITS = 20  # q^stages is at most 2^20: with shorter steps, float32 rounds away most of the difference of two states
_TINY = 1e-30  # least squared distance, so that equal ends have a gradient of 0


class EasyConsistencyTuning(Objective):
    """Tunes a trained denoiser of EDM until it predicts where trajectories end (ECT, Geng et al. 2024,
    arXiv:2406.14548). D at level t learns from D at level r of the same data and noise, without a gradient, or from
    the data itself if r is 0. In stage s = 0, 1, … of training, t - r = t q^-(s + 1) (1 + k sigmoid(-b t)), at most t.
    The loss is the distance of both over t - r. The network predicts EDM's F; samplers use the consistency function.
    Dropout draws anew for each level; the authors' code repeats it.
    """

    kind: Literal["easy_consistency_tuning"]
    process: Annotated[Edm, OneOfThese("processes", classes=(Edm,))] = Field(
        Edm(kind="edm", p_mean=-1.1, p_std=2.0),
        description="the process, and the distribution of t; a process that a spec gives has EDM's `p_mean` and "
        "`p_std` by default",
    )
    stages: int = Field(8, gt=0, le=_BITS, description="stages of training, of equal length")
    over: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="training steps of all stages, the last of which then goes on; null: `train.steps`",
    )
    q: float = Field(2.0, gt=1, le=2.0**_BITS, description="factor by which t - r shrinks from stage to stage")
    k: float = Field(8.0, ge=0, le=1e6, description="t - r is longer by up to 1 + k / 2 at low levels")
    b: float = Field(1.0, ge=0, le=1e6, description="rate at which that factor falls to 1 as t rises")
    c: float = Field(
        0.0, ge=0, description="c of the pseudo-Huber distance sqrt(|d|^2 + c^2) - c; 0: |d|, as the authors' default"
    )
    NEEDS = "denoise"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "easy_consistency_tuning", "stages": 2, "c": 0.06}

    def parameterization(self) -> Parameterization:
        boundary = Boundary(self.process.sigma_min, self.process.sigma_data)
        return Parameterization(self.process, "preconditioned", boundary=boundary)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.stages * math.log2(self.q) > _BITS:
            message = (
                f"`q` to the power of {self.stages} stages is more than 2^{_BITS}, so the last steps from t to r "
                "are lost in the rounding of float32"
            )
            yield Problem(("stages",), message, "use fewer stages, or a smaller `q`")
        yield from problems_of_ends(self, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, target, conditions = networks["main"], self.parameterization(), Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.operands(b, conditions.inputs(b, by_field=True))
        draw = self.process.draw()
        u, noise = b.input(draw.name, f32(B)), b.input("noise", x0.type)
        cond = conditions.dropped(b, given)
        own, own_draws = training_noise(b, network)

        method = training_method(network)
        outs = " ".join(["prediction", *(port.name for port in network.methods[method].outputs[1:])])

        def end(at: Noised, out: str) -> Var:
            """D at a level, under the same conditions and noise of the network for both levels."""
            made = call(b, network, method, cond, state=at.scaled, time=at.network_time, noise=own, out=outs)
            return at.data(made[0] if isinstance(made, tuple) else made, out)

        m = Symbolic(b, x0.type.rank)
        t = self.process.training_time(m, u, target.predicts)
        share = b.minimum(self._share(b, m, t, spec), 1.0, out="share")  # (t - r) / t
        r = b.op("mul", t, 1.0 - share, out="r")
        inside = b.greater(r, 0.0, out="inside")
        # Where r is 0, the network has no time; it is evaluated at t there, and the data takes its place.
        lower = end(noised_at(b, target, x0, noise, b.where(inside, r, t, out="level")), "lower")
        lower = b.stop_gradient(b.where(m.column(inside), lower, x0, out="wanted"))
        difference = b.op("sub", end(noised_at(b, target, x0, noise, t), "upper"), lower, out="difference")
        axes = tuple(range(1, difference.type.rank))
        square = b.sum(difference * difference, axes=axes, keepdims=False, out="square")
        if self.c**2 > _TINY:
            distance = b.add(b.sqrt(square + self.c**2), -self.c, out="distance")
        else:
            distance = b.sqrt(b.maximum(square, _TINY), out="distance")
        b.output(b.div(distance, t * share, out="loss"))
        b.finish("The distance of the ends that both states lead to over t - r, one value per sample.")
        draws = (draw, Draw("noise", "normal"), *conditions.drawn(), *conditions.draws(), *own_draws)
        return publish(mb, ("loss",), ("x", *conditions.fields), draws, self.trained(spec))

    def _share(self, b: Builder, m: Symbolic, t: Var, spec: Spec) -> Var:
        """(t - r) / t f32[B] in this step of training, before it is bounded by 1."""
        decay: Coefficient = 1.0 / self.q
        if self.stages > 1:
            total, stages = self.over or spec.train.steps, np.arange(self.stages)
            begun = b.less_equal(b.constant(stages[1:] * total // self.stages, out="starts"), step_of(b))
            stage = b.sum(b.cast(begun, to="i64", out="begun"), axes=(0,), keepdims=False, out="stage")
            decay = b.take(b.constant(self.q ** -(stages + 1.0), out="decays"), stage, axis=0, out="decay")
        longer = m.affine(m.sigmoid(t * -self.b), self.k, 1.0, out="longer")
        return b.op("mul", longer, decay, out="share")
