"""Pixel after pixel, by networks that keep what earlier pixels left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source


class Pixelwise(Sampler):
    """Draws each pixel from its distribution given the previous ones. Also offers `log_likelihood`."""

    kind: Literal["pixelwise"]
    guidance: None = Field(None, description="always null: pixel distributions are not guided")
    NEEDS = "pixels"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "pixelwise"}

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        return self.build(mb, networks, spec), self._log_likelihood(mb, networks, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N` for N pixels: u f32[B, H, W, draws], conditions -> one sample each."""
        network, conditions = networks["main"], Conditions(spec, networks)
        noise = network.methods["draw"].input("noise")
        pixels = int(noise.type.shape[1]) * int(noise.type.shape[2])  # type: ignore[arg-type]
        entry = f"sample.{pixels}"
        b = mb.function(entry)
        u = b.input(noise.name, noise.type)
        cond = conditions.operands(b, conditions.inputs(b))
        b.output(call(b, network, "draw", cond, noise=u, out="x"))
        mb.entries[entry] = b.finish(doc=f"Draws {pixels} pixels one after the other.")
        sources: dict[str, Source] = {noise.name: RandomSource("uniform", "pixels"), **conditions.sources()}
        return Program(entry, self.kind, pixels, 1, sources)

    def _log_likelihood(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `log_likelihood`: a sample x, conditions -> log p(x) in nats f32[B]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        state = network.methods["log_prob"].input("state")
        b = mb.function("log_likelihood")
        x = b.input(state.name, state.type)
        cond = conditions.operands(b, conditions.inputs(b, sample=x))
        b.output(call(b, network, "log_prob", cond, state=x, out="log_p"))
        mb.entries["log_likelihood"] = b.finish(doc="Log-likelihood of x in nats.")
        field = spec.data.fields[state.name]
        asked = (Condition(state.name, "array", field.shape, "f32", field.axes),)
        sources: dict[str, Source] = {state.name: ConditionSource(state.name), **conditions.sources()}
        outputs = (OutputField("log_likelihood"),)
        return Program(
            "log_likelihood", self.kind, 1, 1, sources, name="log_likelihood", outputs=outputs, conditions=asked
        )
