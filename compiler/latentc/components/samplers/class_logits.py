"""The program of a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import call
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import Condition, ConditionSource


class ClassLogits(Sampler):
    """Program `logits`: logits over the classes, of samples passed as `x`.

    `latentc classify` names the likeliest class. For classifiers of arrays that take neither a time nor conditions.
    """

    kind: Literal["class_logits"]
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "classify"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "class_logits"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        network = spec.networks.get("main")
        if spec.data.shape is None:
            yield Problem((), f"`{self.kind}` takes arrays, but the data has {spec.data.words}")
        elif network is not None and (network.TIME or network.takes(spec)):
            also = "a time" if network.TIME else "conditions"
            yield Problem((), f"a {network.kind} takes {also} besides the sample", "use a classifier of samples alone")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        return logits_program(mb, networks["main"], spec, self.kind)


def logits_program(mb: ModuleBuilder, network: Network, spec: Spec, solver: str) -> Program:
    """Adds entry `logits`: x f32[B, ...] -> f32[B, K], by a classifier of samples alone."""
    field, b = spec.data.fields["x"], mb.function("logits")
    x = b.input("x", network.methods["forward"].input("state").type)
    b.output(call(b, network, "forward", {}, state=x, out="logits"))
    mb.entries["logits"] = b.finish("Runs the classifier once.")
    given = Condition("x", "array", field.shape, "f32", field.axes)
    output, sources = OutputField("logits"), {"x": ConditionSource("x")}
    return Program("logits", solver, 1, 1, sources, name="logits", outputs=(output,), conditions=(given,))
