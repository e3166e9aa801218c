"""One run of a generator: noise and a class in, a sample out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import RandomSource, Setting


class OnePass(Sampler):
    """Runs a generator once, on normal noise that may be truncated (BigGAN, section 3.1).

    Truncation t restricts the normal distribution to [-t, t], equivalent to redrawing values outside; it is computed as
    the inverse CDF of one uniform variate each. Smaller t gives better but less diverse samples.
    """

    kind: Literal["one_pass"]
    truncation: float | None = Field(
        None, gt=0, description="default bound on the noise's magnitude; null: none. Requests may override it"
    )
    guidance: None = Field(
        None, description="always null: generators are not guided; `truncation` trades diversity for quality"
    )
    NEEDS = "generate"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "one_pass", "truncation": 0.5}

    def method(self, spec: Spec) -> str:
        """The method of the generator that it runs."""
        return "forward"

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: z f32[B, Z] and the conditions -> one sample each."""
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("sample.1")
        z = b.input("z", network.methods["forward"].input("noise").type)
        cond = conditions.operands(b, conditions.inputs(b))
        b.output(call(b, network, self.method(spec), cond, noise=z, out="x"))
        mb.entries["sample.1"] = b.finish(doc="Runs the generator once.")
        noise = RandomSource("truncated_normal", "z", settings={"bound": "truncation"})
        truncation = Setting("truncation", self.truncation, low=0.0, closed=False, unlimited=True)
        return Program("sample.1", self.kind, 1, 1, {"z": noise, **conditions.sources()}, (truncation,))
