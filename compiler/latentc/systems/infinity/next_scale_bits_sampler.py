"""Scale after scale: all bits of a scale at once, given those of the scales before it.

Symbols: B batch, K scales, n the side of a scale's map, L positions of all scales, d bits of a position, h the side of
the latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder, as_tuple
from latentc.ir.types import B, f32
from latentc.systems.infinity.bit_transformer import BitTransformer
from latentc.systems.infinity.next_scale_bits_objective import margins, scales_of
from latentc_runtime.sources import RandomSource, Source

Temperature = Annotated[float, Field(gt=0, le=1_000)]


class NextScaleBitsSampler(Sampler):
    """Draws the bits of one scale after another, each by itself (Infinity, Han et al. 2024, arXiv:2412.04431).

    The progress of the guidance is k / (K - 1) at scale k. Guidance is of the logits.
    """

    kind: Literal["next_scale_bits"]
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    weights: tuple[Annotated[float, Field(ge=0, le=100)], ...] | None = Field(
        None, description="factor of scale - 1 of the guidance at each scale, beside its schedule; null: 1"
    )
    temperature: Temperature | tuple[Temperature, ...] = Field(
        1.0, description="what divides the logits, of all scales or of each"
    )
    NEEDS = "next_scale_bits"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_scale_bits", "guidance": {"scale": 2.0}, "temperature": 0.8}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "next_scale_bits"),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        count = len(main.scales) if isinstance(main, BitTransformer) else None
        for name in ("weights", "temperature"):
            given = getattr(self, name)
            if isinstance(given, tuple) and count is not None and len(given) != count:
                yield Problem((name,), f"{len(given)} values for {count} scales", "give one per scale")
        if self.weights is not None and self.guidance is None:
            yield Problem(("weights",), "there is no guidance to weigh", "set `guidance`, or leave it out")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.K`: the conditions, scale f32[B] with guidance, u f32[B, L, d] -> f32[B, d, h, h]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        scales = scales_of(network)
        count = len(scales.sides)
        entry = f"sample.{count}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u = b.input("u", f32(B, sum(scales.lengths), scales.bits))
        sources["u"] = RandomSource("uniform", "bit")
        drawn = b.split(u, axis=1, sizes=scales.lengths, out="u_0")
        progress = [k / (count - 1) for k in range(count)]
        weights = self.guidance.weights(progress) if self.guidance else ()
        temperatures = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,) * count
        caches: list[Any] = []
        latents = inputs = None
        for k in range(count):
            method = network.methods[f"scale_{k}"]
            names = " ".join("cache" if port.role == "cache" else "logits" for port in method.outputs)
            operands: dict[str, Any] = {"cache": caches} | ({} if inputs is None else {"state": inputs})
            strength, null = None, {}
            if scale is not None:
                weight = float(weights[k]) * (1.0 if self.weights is None else self.weights[k])
                strength, null = b.add((scale - 1.0) * weight, 1.0, out="strength"), conditions.null(b, cond)
            made = guided_call(b, network, f"scale_{k}", cond, null, strength, out=names, **operands)
            logits, *caches = as_tuple(made)
            margin = margins(b, logits, scales.bits)
            if temperatures[k] != 1.0:
                margin = b.mul(margin, 1 / temperatures[k], out="margin")
            bits = b.cast(b.less(drawn[k], b.sigmoid(margin)), to="f32", out="bits")
            codes = scales.map(b, b.op("sub", bits * (2 * scales.size), scales.size), k, "codes")
            added = scales.enlarged(b, codes, k)
            latents = added if latents is None else b.add(latents, added, out="latents")
            inputs = None if k == count - 1 else scales.next_input(b, latents, k + 1)
        b.output(latents)
        mb.entries[entry] = b.finish(doc=f"Draws the bits of {count} scales one after the other.")
        return Program(entry, self.kind, count, count, sources, settings, outputs=(OutputField("samples", "x"),))
