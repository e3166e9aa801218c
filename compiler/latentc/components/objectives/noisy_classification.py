"""Classification of noisy samples: the network whose gradient guides a sampler.

Symbols: B batch, K classes; x0 the data, x_t the state at time t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.objectives._range import noised_data, problems_of_range
from latentc.components.objectives.denoising import noised
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.process import Parameterization, Process
from latentc.ir.builder import ModuleBuilder, i64
from latentc.ir.types import B


class NoisyClassification(Objective):
    """Cross-entropy of the label of a noised sample (Dhariwal and Nichol 2021, section 4)."""

    kind: Literal["noisy_classification"]
    process: Annotated[Process, OneOf("processes")] = Field(
        Discrete(kind="discrete"), description="the forward process, from data to noise"
    )
    range: tuple[Fraction, Fraction] | None = Field(
        None,
        description="range of a discrete process's timesteps to train on, from data (0) to noise (1), for experts "
        "(PPAP's multi-experts); null: all",
    )
    NEEDS = "classify"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "noisy_classification", "process": {"kind": "discrete", "steps": 100}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if "y" not in spec.data.fields:
            yield Problem((), "a classifier needs labels, but the data has none", "add `data.classes`")
        yield from problems_of_range(self.process, self.range)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.inputs(b, by_field=True)
        y = given["y"] if "y" in given else b.input("y", i64(B))
        if self.range is None:
            at = noised(b, Parameterization(self.process, "noise"), x0)
        else:
            at = noised_data(b, self.process, self.range, x0)
        cond = conditions.dropped(b, conditions.operands(b, given))
        logits = call(b, network, "forward", cond, state=at.scaled, time=at.network_time, out="logits")
        loss = b.cross_entropy(logits, y, out="loss")
        right = b.cast(b.equal(b.argmax(logits, axis=1), y), to="f32", out="accuracy")
        b.output(loss, right)
        b.finish("The cross-entropy of the label and whether it is right, one value per sample each.")
        fields = dict.fromkeys(("x", *conditions.fields, "y"))
        draws = (*at.draws, *conditions.draws())
        return publish(mb, ("loss", "accuracy"), tuple(fields), draws)
