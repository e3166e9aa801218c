"""Velocity refinement: a small network learns the change of a flow's velocity over a short step.

Symbols: B batch; x_t the data noised to time t, v the velocity there, dt the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.backbone import Backbone
from latentc.components.condition import carried as is_carried
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising import noised
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.process import Parameterization
from latentc.components.sums import weighted_sum
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.types import B


class VelocityRefinement(Objective):
    """Trains `refiner` to turn the velocity at t into that at t + dt (FlowTurbo, Zhao et al. 2024, arXiv:2409.18128).

    The frozen network `main` predicts v at x_t, and again at x_t + dt v. The refiner takes v and learns the difference.
    Conditions are dropped jointly for the second prediction and the refiner.
    """

    kind: Literal["velocity_refinement"]
    process: Annotated[Interpolant, OneOfThese("processes", classes=(Interpolant,))] = Field(
        Interpolant(kind="interpolant"), description="the path that `main` was trained on; `main` predicts its velocity"
    )
    refiner: str = Field("refiner", description="one of `networks`: the trained one")
    max_step: float = Field(
        0.12, gt=0, le=1, description="dt is uniform between 0 and this, in the path's time, per sample"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "velocity_refinement"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "denoise"), Need(self.refiner, "refine")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (self.refiner,)

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "flow_velocity")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        if isinstance(main, Backbone) and (main.pretrained is None or main.trainable):
            what = "has no weights: its `pretrained` names no file" if main.pretrained is None else "is not frozen"
            message = f"network `main`, whose velocity is refined, {what}"
            yield Problem((), message, "train a flow, then name its checkpoint in `networks.main.pretrained`")
        yield from carried_problems(self.refiner, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, refiner, conditions = networks["main"], networks[self.refiner], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", main.methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        at = noised(b, self.parameterization(), x0)
        step = b.input("step", f32(B))
        dropped = conditions.dropped(b, cond)
        v = b.stop_gradient(call(b, main, "forward", cond, state=at.x_t, time=at.network_time, out="v"))
        m = Symbolic(b, x0.type.rank)
        x_next = weighted_sum(b, "x_next", (1.0, at.x_t), (m.column(step, "dt"), v))
        later = b.add(at.t, step, out="t_next")
        target = b.stop_gradient(call(b, main, "forward", dropped, state=x_next, time=later, out="target"))
        change = call(b, refiner, "forward", {**dropped, carried(spec): v}, state=x_next, time=later, out="change")
        error = b.op("sub", b.add(v, change, out="refined"), target, out="error")
        b.output(per_sample_mean(b, error * error, out="loss"))
        b.finish("The squared error of the refined velocity a step later, one value per sample.")
        draws = (*at.draws, Draw("step", "uniform_between", {"low": 0.0, "high": self.max_step}), *conditions.draws())
        return publish(mb, ("loss",), ("x", *conditions.fields), draws, self.trained(spec))


def carried(spec: Spec) -> str:
    """The name of the condition that is carried, of which there is one."""
    return next(name for name, condition in spec.conditions.items() if is_carried(name, condition, spec))


def carried_problems(network: str, spec: Spec) -> Iterator[Problem]:
    """More carried conditions than the one that is refined."""
    names = [name for name, condition in spec.conditions.items() if is_carried(name, condition, spec)]
    if len(names) > 1:
        message = f"network `{network}` refines one array, but the sampler carries {', '.join(names)}"
        yield Problem((), message, f"keep `conditioning.{names[0]}`")
