"""Training of a field by the line integrals that a detector measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.capabilities import TRAINING
from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import noise_inputs
from latentc.components.objectives.terms._term import mean
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder


class LineIntegrals(Objective):
    """Squared error of projections, averaged over rays: of the field and of all patients' modulations at once
    (auto-decoding; Papa et al. 2023, arXiv:2307.08351).

    To fit new patients, start from a trained field with `pretrained`, and keep it with `frozen_weights`.
    """

    kind: Literal["line_integrals"]
    NEEDS = "project"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "line_integrals"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss")
        x = b.input("x", network.methods[TRAINING].output().type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        places, draws = noise_inputs(b, network.methods[TRAINING])
        projected = call(b, network, TRAINING, cond, noise=places, out="projected")
        difference = b.op("sub", projected, x, out="difference")
        b.output(mean(b, difference * difference, "loss"))
        mb.entries["loss"] = b.finish("The squared error of line integrals.")
        return (Update("loss", super().trained(spec), ("x", *conditions.fields), draws, ("loss",)),)
