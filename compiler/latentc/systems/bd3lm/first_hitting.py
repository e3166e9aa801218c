"""Blocks of tokens from left to right, each unmasked token by token.

Symbols: B batch, T tokens of a sample, V vocabulary (token V is the mask), S tokens of a block, N evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.kit.tokens import draw, filtered
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32
from latentc.systems.bd3lm.block_diffusion_tokens import BlockDiffusionLoss
from latentc.systems.mdlm.masked_diffusion_tokens import possible
from latentc_runtime.sources import RandomSource, Source


class FirstHitting(Sampler):
    """Draws block after block; each evaluation draws one masked token of the block, at a place chosen at random
    (first-hitting sampler, Zheng et al. 2024, arXiv:2409.02908, in BD3-LM, Arriola et al. 2025, arXiv:2503.09573). The
    network is not given the time, so the times at which tokens are hit do not matter.
    """

    kind: Literal["first_hitting"]
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus of the predicted distribution of a token; 1: all")
    start: int | None = Field(
        None, ge=0, le=16_777_215, description="the first token of every sample; null: it is drawn"
    )
    guidance: Guidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "unmask_blocks"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "first_hitting"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(spec.objective, BlockDiffusionLoss):
            message = f"`{self.kind}` draws blocks, but the objective trains no network for that"
            yield Problem(("kind",), message, "use `objective: {kind: block_diffusion_tokens}`")
        tokens = spec.data.tokens
        if self.start is not None and tokens is not None and self.start >= tokens.vocabulary:
            yield Problem(("start",), f"tokens are 0 to {tokens.vocabulary - 1}", "use one of these")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the conditions, the scale of guidance, u and v f32[N, B] -> i64[B, T]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        port, objective = network.methods["forward"].input("state"), spec.objective
        assert isinstance(objective, BlockDiffusionLoss)
        length, mask = int(port.type.shape[1]), int(port.null or 0)  # type: ignore[arg-type]
        given = int(self.start is not None)
        count = length - given
        entry = f"sample.{count}"
        block = (np.arange(count) + given) // objective.block
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u, v = (b.input(name, f32(count, B)) for name in "uv")
        sources |= {"u": RandomSource("uniform", "token", count), "v": RandomSource("uniform", "place", count)}
        first = b.reshape(b.slice(u, axis=0, start=0, stop=1), shape=(B,), out="u_0")
        tokens = b.full(first, shape=(Named(length, "T"),), value=mask, dtype="i64", out="tokens")
        if self.start is not None:
            begins = b.reshape(b.equal(b.arange(length), 0), shape=(1, length), out="begins")
            tokens = b.where(begins, b.scalar(self.start, tokens), tokens, out="tokens")

        def body(
            b: Builder, i: Var, given: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[()]]:
            (tokens,), (block, u, v) = state, row
            cond = dict(zip(operands, given, strict=False))
            own, null = (None, {}) if scale is None else (given[-1], conditions.null(b, cond))
            at: dict[str, Any] = {"state": tokens}
            logits = possible(b, network, guided_call(b, network, "forward", cond, null, own, out="logits", **at))
            inside = b.equal(b.div(b.arange(length), objective.block), block, out="inside")
            open_ = b.logical_and(b.equal(tokens, mask), b.reshape(inside, shape=(1, length)), out="open")
            place = _place(b, b.cast(open_, to="f32"), v)
            here = b.equal(b.reshape(b.arange(length), shape=(1, length)), b.reshape(place, shape=(B, 1)), out="here")
            chosen = b.reshape(b.cast(here, to="f32"), shape=(B, length, 1), out="chosen")
            chosen = b.sum(logits * chosen, axes=(1,), keepdims=False, out="chosen")
            token = draw(b, filtered(b, chosen, 0, self.top_p), u, out="token")
            return (b.where(here, b.reshape(token, shape=(B, 1)), tokens, out="tokens"),), ()

        invariants = [*operands.values(), *([scale] if scale is not None else [])]
        tables, names = [b.constant(block, out="block"), u, v], ["tokens", "block", "u", "v"]
        loop = f"{entry}.unmask"
        (tokens,) = b.loop(loop, count, body, invariants=invariants, carried=[tokens], tables=tables, names=names)
        b.output(tokens)
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens in blocks of {objective.block}, one per evaluation.")
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, count, count, sources, settings, outputs=outputs)


def _place(b: Builder, open_: Var, v: Var) -> Var:
    """i64[B]: one of the places where `open_` f32[B, T] is 1, all alike likely, by uniform numbers v f32[B]."""
    count = b.sum(open_, axes=(1,), keepdims=True, out="count")
    rank = b.floor(b.reshape(v, shape=(v.shape[0], 1)) * count, out="rank")
    rank = b.minimum(rank, count - 1.0, out="rank")
    # The first place with more than `rank` open ones up to it: as many places as have no more.
    before = b.less(b.cumsum(open_, axis=1), rank + 0.5, out="before")
    return b.sum(b.cast(before, to="i64"), axes=(1,), keepdims=False, out="place")
