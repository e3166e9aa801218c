"""The programs of an autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import Condition, ConditionSource


class Autoencode(Sampler):
    """Program `reconstruct` encodes and decodes samples passed as `x`; `encode` returns their codes."""

    kind: Literal["autoencode"]
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "autoencode"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "autoencode"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        return self.programs(mb, networks, spec)[0]

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds entries `reconstruct` and `encode`."""
        network, field, made = networks["main"], spec.data.fields["x"], []
        given = Condition("x", "array", field.shape, "f32", field.axes)
        for name, method, output in (
            ("reconstruct", "forward", OutputField("reconstruction", "x")),
            ("encode", "encode", OutputField("codes")),
        ):
            b = mb.function(name)
            x = b.input("x", network.methods[method].input("state").type)
            b.output(call(b, network, method, {}, state=x, out=output.name))
            mb.entries[name] = b.finish(f"Runs the autoencoder's `{method}`.")
            sources = {"x": ConditionSource("x")}
            made.append(Program(name, self.kind, 1, 1, sources, name=name, outputs=(output,), conditions=(given,)))
        return tuple(made)
