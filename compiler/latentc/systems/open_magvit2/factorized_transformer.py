"""A causal transformer over tokens of several parts, and a small one over the parts of each: Open-MAGVIT2.

A file of its own because it predicts a token by several evaluations of the small transformer.

Symbols: B batch, T tokens of a sample, K parts of a token, V values of a part, D width, H_kv key heads, d channels of a
head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, embedded_sum, ports_of
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Positions, Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.open_magvit2.parts import parts_of


class FactorizedTransformer(TokenBlocks):
    """Causal transformer of tokens that are drawn part by part (Open-MAGVIT2, Luo et al. 2024, arXiv:2409.04410).

    A token is embedded as the sum of its parts' rows; the features of a token's place (its context), followed by the
    parts before, are tokens of `part_depth` further blocks, which give the logits of the next part. The places of parts
    are those of the first tokens: rotary tables are zero at the context, as at the condition.

    `forward`: idx i64[B, T], conditions -> logits f32[B, T, V] of each part. `prefill`: conditions -> the context of
    token 0 f32[B, D], then the caches; `decode`: token i64[B], position i64[], caches -> the context of token
    `position`, then the grown caches, a pair (keys, values) f32[B, H_kv, T, d] per block. `part_0`, `part_1`, …:
    context, the parts i64[B] before -> logits f32[B, V] of the part.
    """

    kind: Literal["factorized_transformer"]
    bits: tuple[Annotated[int, Field(gt=0, le=24)], ...] = Field(
        min_length=2, max_length=24, description="bits of each part of a token, the lowest first"
    )
    part_depth: int = Field(gt=0, le=512, description="number of blocks over the parts of a token")
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="rotary positions on the grid")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded tokens, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "factorized_transformer",
        "width": 16,
        "depth": 2,
        "bits": [1, 3],
        "part_depth": 1,
        "positions": {"kind": "rope_2d"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True, "bias": False},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_parts"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("grid",)

    @property
    def rotary(self) -> Positions:
        """The positions by the type that their folder promises."""
        assert isinstance(self.positions, Positions)
        return self.positions

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            yield Problem((), f"a factorized_transformer takes tokens, but the data has {spec.data.words}")
        else:
            if len(tokens.grid) != 2 or tokens.grid[0] != tokens.grid[1]:
                message = f"rotary positions need a square grid of tokens, not {' by '.join(map(str, tokens.grid))}"
                yield Problem(("positions",), message, "change `data.tokens.grid`")
            elif tokens.length + 1 < len(self.bits):
                message = f"{len(self.bits)} parts need as many rotary positions, but {tokens.length} tokens have fewer"
                yield Problem(("bits",), message, "use fewer parts")
            if tokens.vocabulary != 2 ** sum(self.bits):
                message = f"parts of {sum(self.bits)} bits are {2 ** sum(self.bits)} tokens, not {tokens.vocabulary}"
                yield Problem(("bits",), message, "change `bits` or `data.tokens.vocabulary`")
        if not self.rotary.ROTARY:
            message = f"positions of a factorized_transformer are rotary, but `{self.positions.kind}` is added"
            yield Problem(("positions",), message, "use `{kind: rope_2d}`")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.block.problems_of_decoding("a factorized_transformer predicts the next token")
        if not self.takes(spec):
            message = "a factorized_transformer begins with a condition, but takes none"
            yield Problem((), message, "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        static: dict[str, Any] = {
            "grid": tokens.grid[0],
            "part_depth": self.part_depth,
            **self.block_sizes(),
            **self.condition_sizes(spec),
        }
        entries = self.entries(spec)
        cond = ports_of(entries)
        kv_heads = static.get("kv_heads", static["heads"])
        cache_type = f32(B, kv_heads, Named(tokens.length, "T"), self.width // static["heads"])
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        role: Role = "cache"
        grown: tuple[Role, ...] = (role, *(port.role for port in caches))
        token, position = Port("token", i64(B), "token", tokens.vocabulary), Port("position", i64(), "position")
        idx, context = Port("idx", i64(B, tokens.length), "state", tokens.vocabulary), f32(B, self.width)
        of_part: Role = "logits"
        every = (of_part,) * len(self.bits)
        methods = {
            "forward": add_method(mb, name, "forward", _forward(self, entries), (idx, *cond), static, every),
            "prefill": add_method(mb, name, "prefill", _prefill(self, entries), cond, static, grown),
            "decode": add_method(mb, name, "decode", _decode(self), (token, position, *caches), static, grown),
        }
        for k in range(len(self.bits)):
            before = tuple(Port("parts", i64(B), "token", 2**count) for count in self.bits[:k])
            ports = (Port("context", context, "cache"), *before)
            methods[f"part_{k}"] = add_method(mb, name, f"part_{k}", _part(self, k), ports, static, ("logits",))
        return Network(name, methods, self.PROVIDES, sizes={"part_bits": self.bits})


def bits_of_network(network: Network) -> tuple[int, ...]:
    """Bits of each part of the tokens that the network predicts."""
    bits = network.sizes["part_bits"]
    assert isinstance(bits, tuple)
    return tuple(int(count) for count in bits)


def _embedded(config: FactorizedTransformer, b: Builder, k: int, part: Var, width: int) -> Var:
    """Rows f32[..., D] of part `k`."""
    table = b.param(f"tok_embeddings.{k}.weight", f32(2 ** config.bits[k], width), "normal", std=0.02)
    return b.embedding(table, part, out="x")


def _summed(config: FactorizedTransformer, b: Builder, tokens: Var, width: int) -> tuple[Var, list[Var]]:
    """Tokens i64[B, N] as the sum f32[B, N, D] of the rows of their parts, and these."""
    rows = [_embedded(config, b, k, part, width) for k, part in enumerate(parts_of(b, tokens, config.bits))]
    x = rows[0]
    for row in rows[1:]:
        x = b.add(x, row, out="x")
    return x, rows


def _tables(config: FactorizedTransformer, b: Builder, count: Any, width: int, static: Mapping[str, Any]) -> list[Var]:
    """Rotary tables f32[count, d / 2] of the first tokens, of which the condition is the first."""
    tables = config.rotary.rotary(b, width // static["heads"], static["grid"], 1)
    return [
        b.slice(table, axis=0, start=0, stop=count, out=part)
        for table, part in zip(tables, ("cos", "sin"), strict=True)
    ]


def _of_parts(config: FactorizedTransformer, b: Builder, x: Var, depth: int, width: int, static: Any) -> Var:
    """Features f32[N, K, D] of the context and the parts after it, x f32[N, K, D], normalised."""
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)
    rotary, sizes = _tables(config, b, int(x.shape[1]), width, static), config.block.own(width, static)
    for name in items("part_blocks", depth):
        x = b.sub(name, block, x, *rotary, dim=width, **sizes)
    return norm.apply(b, "norm", x)


@cache
def _forward(config: FactorizedTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)
    count = len(config.bits)

    @module_class("FactorizedTransformer", idx="B T=grid**2")
    def forward(
        b: Builder, idx: Var, *conditions: Var, grid: int, width: int, depth: int, part_depth: int, **static: Any
    ) -> tuple[Var, ...]:
        """Logits of every part of every token given the conditions, the tokens before it and the parts before."""
        static["grid"], length = grid, Named(grid**2, "T")
        c = embedded_sum(b, entries, conditions, width, static)
        x, rows = _summed(config, b, idx, width)
        x = b.slice(x, axis=1, start=0, stop=length - 1)
        x = b.concat(b.reshape(c, shape=(c.shape[0], 1, width)), x, axis=1, out="x")
        x = b.reshape(x, shape=(x.shape[0], length, width), out="x")
        x = b.dropout(x, p=config.dropout, out="x") if config.dropout else x
        rotary, sizes = _tables(config, b, length, width, static), config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, *rotary, dim=width, **sizes)
        batch = x.shape[0]
        every = [b.reshape(row, shape=(batch, length, 1, width)) for row in (x, *rows[:-1])]
        x = b.reshape(b.concat(*every, axis=2), shape=(batch * length, count, width), out="parts")
        x = _of_parts(config, b, x, part_depth, width, static)
        x = b.reshape(x, shape=(batch, length, count, width), out="x")
        logits = []
        for k, part in enumerate(b.split(x, axis=2, sizes=(1,) * count, out="part")):
            part = b.reshape(part, shape=(batch, length, width), out="part")
            logits.append(dense(b, f"output.{k}", part, 2 ** config.bits[k], False, "zeros", out="logits"))
        return tuple(logits)

    return forward


def _step(
    config: FactorizedTransformer,
    b: Builder,
    x: Var,
    position: Var,
    caches: Sequence[Var],
    width: int,
    static: Mapping[str, Any],
) -> tuple[Var, ...]:
    """One token x [B, 1, D] at `position` through all blocks: the context [B, D] of the next and the grown caches."""
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, DECODE)
    length = Named(static["grid"] ** 2, "T")
    tables = config.rotary.rotary(b, width // static["heads"], static["grid"], 1)
    row = [
        b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out=part)
        for table, part in zip(tables, ("cos", "sin"), strict=True)
    ]
    mask = b.reshape(b.less_equal(b.arange(length), position), shape=(1, 1, 1, length), out="mask")
    first, sizes = (position, mask), config.block.own(width, static)
    x, grown = cached_blocks(b, "blocks", block, len(caches) // 2, x, caches, first, row, dim=width, **sizes)
    return b.reshape(x, shape=(x.shape[0], width), out="context"), *grown


@cache
def _prefill(config: FactorizedTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("FactorizedTransformer", "prefill")
    def prefill(
        b: Builder, *conditions: Var, grid: int, width: int, depth: int, part_depth: int, **static: Any
    ) -> tuple[Var, ...]:
        """Starts a sequence with its conditions: the context of token 0, and caches that hold the conditions' token."""
        static["grid"] = grid
        c = embedded_sum(b, entries, conditions, width, static)
        x = b.reshape(c, shape=(c.shape[0], 1, width), out="x")
        shape = (static.get("kv_heads", static["heads"]), Named(grid**2, "T"), width // static["heads"])
        caches = [b.full(x, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        return _step(config, b, x, b.constant(np.int64(0)), caches, width, static)

    return prefill


@cache
def _decode(config: FactorizedTransformer) -> BlockBody:
    kv = "kv_heads" if "kv_heads" in config.block.parts()[0].static(config.width) else "heads"

    @module_class("FactorizedTransformer", "decode", caches=f"B {kv} T=grid**2 width//heads")
    def decode(
        b: Builder,
        token: Var,
        position: Var,
        *caches: Var,
        grid: int,
        width: int,
        depth: int,
        part_depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Takes token `position - 1` and gives the context of token `position`, and the grown caches."""
        static["grid"] = grid
        x, _ = _summed(config, b, b.reshape(token, shape=(token.shape[0], 1)), width)
        return _step(config, b, x, position, caches, width, static)

    return decode


@cache
def _part(config: FactorizedTransformer, k: int) -> BlockBody:
    @module_class("FactorizedTransformer", f"part_{k}", context="B width")
    def part(
        b: Builder, context: Var, *parts: Var, grid: int, width: int, depth: int, part_depth: int, **static: Any
    ) -> Var:
        """Logits of a part given the context of its token and the parts before."""
        static["grid"], batch = grid, context.shape[0]
        rows = [context, *(_embedded(config, b, j, own, width) for j, own in enumerate(parts))]
        rows = [b.reshape(row, shape=(batch, 1, width)) for row in rows]
        x = b.concat(*rows, axis=1, out="x") if k else rows[0]
        x = _of_parts(config, b, x, part_depth, width, static)
        x = b.reshape(b.slice(x, axis=1, start=k, stop=k + 1), shape=(batch, width), out="x")
        return dense(b, f"output.{k}", x, 2 ** config.bits[k], False, "zeros", out="logits")

    return part
