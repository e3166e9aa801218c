"""One run of a generator of noise and random codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import RandomSource


class CodedPass(Sampler):
    """Runs a generator once, on normal noise and random codes (Deng et al. 2026, arXiv:2602.04770)."""

    kind: Literal["coded_pass"]
    guidance: None = Field(None, description="always null: the scale of guidance is a condition of the generator")
    NEEDS = "generate_of_codes"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "coded_pass"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: noise and codes and the conditions -> one sample each."""
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("sample.1")
        ports = network.methods["forward"].inputs_of("noise")
        noise = [b.input(port.name, port.type) for port in ports]
        cond = conditions.operands(b, conditions.inputs(b))
        b.output(call(b, network, "forward", cond, noise=noise, out="x"))
        mb.entries["sample.1"] = b.finish(doc="Runs the generator once.")
        sources = {
            port.name: RandomSource(
                port.distribution or "normal",
                port.name,
                parameters={} if port.values is None else {"high": port.values},
            )
            for port in ports
        }
        return Program("sample.1", self.kind, 1, 1, {**sources, **conditions.sources()})
