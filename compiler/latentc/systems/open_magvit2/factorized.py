"""Token after token, and each part after part: Open-MAGVIT2's sampler.

A program of its own because a token takes several draws, each of a small network over the parts before.

Symbols: B batch, T tokens of a sample, V values of a part, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.guidance.guidance import Guidance, asked_scale, scale_at, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import TokenSampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple
from latentc.ir.types import B, f32
from latentc.systems.open_magvit2.factorized_transformer import FactorizedTransformer, bits_of_network
from latentc.systems.open_magvit2.parts import token_of
from latentc_runtime.sources import RandomSource, Source


class Factorized(TokenSampler):
    """Draws each part of each token by inverse CDF, from one uniform variate per part and token (Open-MAGVIT2, Luo et
    al. 2024, arXiv:2409.04410).
    """

    kind: Literal["factorized"]
    guidance: Guidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    strengths: tuple[Annotated[float, Field(ge=0, le=1_000)], ...] | None = Field(
        None,
        max_length=24,
        description="strength of the guidance of each part: its scale is 1 + strength (scale - 1); null: 1 for all",
    )
    temperatures: tuple[Annotated[float, Field(gt=0, le=1_000)], ...] | None = Field(
        None, max_length=24, description="factor of the temperature of each part; null: 1 for all"
    )
    NEEDS = "next_parts"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "factorized", "guidance": {"scale": 2.0}, "strengths": [1.0, 0.5]}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))
        if self.guidance is not None and tuple(self.guidance.interval) != (0.0, 1.0):
            message = "all tokens are guided, because their caches hold both branches"
            yield Problem(("guidance", "interval"), message, "leave it out")
        if self.guidance is None and self.strengths is not None:
            yield Problem(("strengths",), "`strengths` has no effect without guidance", "leave it out")
        if not self.temperature and self.temperatures is not None:
            yield Problem(("temperatures",), "`temperatures` has no effect at temperature 0", "leave it out")
        main = spec.networks.get("main")
        count = len(main.bits) if isinstance(main, FactorizedTransformer) else None
        for name, given in (("strengths", self.strengths), ("temperatures", self.temperatures)):
            if given is not None and count is not None and len(given) != count:
                yield Problem((name,), f"{len(given)} values for tokens of {count} parts", f"list {count}")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: y i64[B], scale f32[B] with guidance, u f32[T, B] per part unless greedy ->
        i64[B, T]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        assert spec.data.tokens is not None
        length, bits = spec.data.tokens.length, bits_of_network(network)
        entry = f"sample.{length}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        uniforms = [b.input(f"u_{k}", f32(length, B)) for k in range(len(bits))] if self.temperature else []
        null = cond if scale is None else conditions.null(b, cond)
        names = " ".join(["context", *["cache"] * (len(network.methods["prefill"].outputs) - 1)])
        context, *caches = as_tuple(guided_call(b, network, "prefill", cond, null, scale, out=names))
        first = [b.reshape(b.slice(u, axis=0, start=0, stop=1), shape=(B,), out="u") for u in uniforms]
        token = self._drawn(b, network, bits, context, scale, first)
        tokens = [b.reshape(token, shape=(B, 1), out="tokens")]
        if length > 1:
            rows = [b.slice(u, axis=0, start=1, stop=length, out="u_rest") for u in uniforms]
            body = partial(self._step, network, bits, names)
            invariants = [] if scale is None else [scale]
            *_, drawn = b.loop(
                f"{entry}.decode", length - 1, body, invariants=invariants, carried=[token, *caches], tables=rows
            )
            tokens.append(b.transpose(drawn, perm=(1, 0), out="tokens"))
        b.output(b.concat(*tokens, axis=1, out="tokens") if len(tokens) > 1 else tokens[0])
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens of {len(bits)} parts one after the other.")
        for k in range(len(uniforms)):
            sources[f"u_{k}"] = RandomSource("uniform", f"part_{k}", length)
        return Program(entry, self.kind, length, length, sources, settings)

    def _step(
        self,
        network: Network,
        bits: tuple[int, ...],
        names: str,
        b: Builder,
        i: Var,
        kept: tuple[Var, ...],
        state: tuple[Var, ...],
        rows: tuple[Var, ...],
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        """One token: (token, caches) -> (next token, grown caches), and the token to keep."""
        token, *caches = state
        scale = kept[0] if kept else None
        position = b.op("add", i, 1, out="position")
        operands = {"token": token, "position": position, "cache": caches}
        context, *caches = as_tuple(guided_call(b, network, "decode", {}, {}, scale, out=names, **operands))
        token = self._drawn(b, network, bits, context, scale, list(rows))
        return (token, *caches), (token,)

    def _drawn(
        self,
        b: Builder,
        network: Network,
        bits: tuple[int, ...],
        context: Var,
        scale: Var | None,
        uniforms: Sequence[Var],
    ) -> Var:
        """The token i64[B] whose context f32[B or 2 B, D] the network gave, drawn part by part."""
        parts: list[Var] = []
        for k in range(len(bits)):
            strength = 1.0 if self.strengths is None else self.strengths[k]
            own = scale if scale is None or strength == 1.0 else scale_at(b, scale, b.constant(strength, "f32"))
            given: dict[str, Any] = {"token": list(parts)} if parts else {}
            logits = guided_call(b, network, f"part_{k}", {}, {}, own, out="logits", cache=[context], **given)
            factor = 1.0 if self.temperatures is None else self.temperatures[k]
            picks = self.model_copy(update={"temperature": self.temperature * factor})
            parts.append(picks.pick(b, logits, uniforms[k] if uniforms else None))
        return token_of(b, parts, bits)
