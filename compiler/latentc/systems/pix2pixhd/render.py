"""One run of a network that makes samples of their conditions alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder


class Render(Sampler):
    """Runs a generator once on the conditions. Nothing is drawn, so the seed does not matter."""

    kind: Literal["render"]
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "render"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "render"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: the conditions -> one sample each."""
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("sample.1")
        b.output(call(b, network, "forward", conditions.operands(b, conditions.inputs(b)), out="x"))
        mb.entries["sample.1"] = b.finish("Runs the generator once.")
        return Program("sample.1", self.kind, 1, 1, conditions.sources())
