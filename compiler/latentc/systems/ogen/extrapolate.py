"""Features of classes without samples.

Symbols: B batch, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.components.samplers.class_logits import logits_program
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source


class Extrapolate(Sampler):
    """Makes a feature f32[D] of a new class in one run of the generator; program `logits` classifies features.

    Its classes are the known ones, then the new ones.
    """

    kind: Literal["extrapolate"]
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "extrapolate_classes"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "extrapolate"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: new classes i64[B] and uniform numbers f32[B, D] -> features f32[B, D]."""
        network, b = networks["main"], mb.function("sample.1")
        ports = network.methods["extrapolate"].inputs
        y, u = (b.input(port.name, port.type) for port in ports)
        b.output(call(b, network, "extrapolate", {}, token=y, noise=u, out="x"))
        mb.entries["sample.1"] = b.finish("Makes a feature of each class.")
        sources: dict[str, Source] = {"y": ConditionSource("class"), "u": RandomSource("uniform", "u")}
        given = (Condition("class", "label", classes=ports[0].values),)
        return Program("sample.1", self.kind, 1, 1, sources, conditions=given)

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds the sampler, and entry `logits`."""
        return self.build(mb, networks, spec), logits_program(mb, networks["main"], spec, self.kind)
