"""Scale after scale: all tokens of a scale at once, given those of the scales before it.

A program of its own because each scale has a size of its own, so that there is no loop: the keys and values of the
scales before grow, and a quantiser makes the next scale's input of the tokens.

Symbols: B batch, K scales, n the side of a scale's map, L tokens of all scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.fields import Field as DataField
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, call, guided_call
from latentc.components.kit.tokens import filtered
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import TokenSampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple
from latentc.ir.types import B, f32
from latentc.systems.var.scale_quantizer import ScaleQuantizer
from latentc.systems.var.scale_transformer import ScaleTransformer
from latentc_runtime.sources import RandomSource, Source

HARDENING, HARDEST = 0.27, 0.005
"""Temperature of the first scale's Gumbel softmax, which falls by 95 % to the last's, and its least."""


class NextScaleSampler(TokenSampler):
    """Draws the tokens of one scale after another (VAR, Tian et al. 2024, arXiv:2404.02905).

    The progress of the guidance is k / (K - 1) at scale k, so `linear` does not guide the first; the caches of both
    branches grow from there.
    """

    kind: Literal["next_scale"]
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    smooth: bool = Field(
        False,
        description="use mixtures of codes from a Gumbel softmax, which sharpens from scale to scale, instead of "
        "single tokens (`more_smooth` of the authors' code, used there for figures but not for metrics)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "next_scale",
        "top_k": 8,
        "top_p": 0.9,
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        mixed = (Need("quantizer", "mix_scales"),) if self.smooth else ()
        return (Need("main", "next_scale"), Need("quantizer", "quantize_scales"), *mixed)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main, quantizer = spec.networks.get("main"), spec.networks.get("quantizer")
        scales = quantizer.codebook.lengths if isinstance(quantizer, ScaleQuantizer) else None
        if isinstance(main, ScaleTransformer) and scales is not None and main.lengths != scales:
            message = "networks `main` and `quantizer` have different scales"
            yield Problem((), message, "give both the same `scales`")
        if self.smooth and not self.temperature:
            yield Problem(
                ("smooth",),
                "`smooth` mixes drawn codes, but at temperature 0 none are drawn",
                "use a positive `temperature`, or `top_k: 1` for the likeliest",
            )
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.K`: the conditions, scale f32[B] with guidance, u f32[B, L] unless greedy -> i64[B, L].

        With `smooth`: gumbel f32[B, L, V] in place of u -> latents f32[B, Z, h, h].
        """
        network, quantizer, conditions = networks["main"], networks["quantizer"], Conditions(spec, networks)
        lengths: list[int] = []
        while (method := network.methods.get(f"scale_{len(lengths)}")) is not None:
            lengths.append(int(method.output("logits").type.shape[1]))  # type: ignore[arg-type]
        count = len(lengths)
        entry = f"sample.{count}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u: Var | None
        if self.smooth:
            codes = int(network.methods["scale_0"].output("logits").type.shape[2])  # type: ignore[arg-type]
            u = b.input("gumbel", f32(B, sum(lengths), codes))
        else:
            u = b.input("u", f32(B, sum(lengths))) if self.temperature else None
        drawn = () if u is None else b.split(u, axis=1, sizes=tuple(lengths), out="gumbel_0" if self.smooth else "u_0")
        weights = self.guidance.weights([k / (count - 1) for k in range(count)]) if self.guidance else ()
        caches: list[Any] = []
        tokens: list[Any] = []
        latents = inputs = None
        for k in range(count):
            method = network.methods[f"scale_{k}"]
            names = " ".join("cache" if port.role == "cache" else "logits" for port in method.outputs)
            operands: dict[str, Any] = {"cache": caches} | ({} if inputs is None else {"state": inputs})
            strength = None if scale is None else b.add((scale - 1.0) * float(weights[k]), 1.0, out="strength")
            null = {} if scale is None else conditions.null(b, cond)
            made = guided_call(b, network, f"scale_{k}", cond, null, strength, out=names, **operands)
            logits, *caches = as_tuple(made)
            before: dict[str, Any] = {} if latents is None else {"state": latents}
            names = "latents inputs" if k < count - 1 else "latents"
            if self.smooth:
                before["features"] = self._shares(b, logits, drawn[k], k / (count - 1))
                latents, *rest = as_tuple(call(b, quantizer, f"mix_{k}", {}, out=names, **before))
                inputs = rest[0] if rest else None
                continue
            tokens.append(self.pick(b, logits, None if u is None else drawn[k]))
            if k < count - 1:
                latents, inputs = call(b, quantizer, f"add_{k}", {}, token=tokens[-1], out=names, **before)
        b.output(latents if self.smooth else b.concat(*tokens, axis=1, out="tokens"))
        mb.entries[entry] = b.finish(doc=f"Draws the tokens of {count} scales one after the other.")
        if self.smooth:
            sources["gumbel"] = RandomSource("gumbel", "token")
            assert latents is not None
            _, *shape = latents.shape
            field = DataField(shape=tuple(int(size) for size in shape), axes=("channel", "height", "width"))
            made = OutputField("samples", field, latents=True)
        else:
            made = OutputField("samples", "tokens")
            if u is not None:
                sources["u"] = RandomSource("uniform", "token")
        return Program(entry, self.kind, count, count, sources, settings, outputs=(made,))

    def _shares(self, b: Builder, logits: Var, gumbel: Var, progress: float) -> Var:
        """f32[B, n n, V]: the shares of codes of a scale, `progress` of the way from the first to the last."""
        if self.temperature != 1.0:
            logits = b.op("mul", logits, 1 / self.temperature, out="logits")
        kept = filtered(b, logits, self.top_k, self.top_p)
        softness = max(HARDENING * (1 - 0.95 * progress), HARDEST)
        noisy = b.add(b.op("mul", kept, 1 + progress), gumbel, out="noisy")
        return b.softmax(b.op("mul", noisy, 1 / softness), axis=2, out="shares")
