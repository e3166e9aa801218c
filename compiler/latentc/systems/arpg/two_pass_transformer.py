"""Causal blocks over known tokens, and blocks of position queries that share one set of keys and values: ARPG.

Symbols: B batch, T tokens of a sample, n tokens of the group before, m of the one to predict, N queries at once, S rows
of the cache, V vocabulary, D width, H heads, H_kv key heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.condition import Entry, with_operands
from latentc.components.decoding import BEGIN, EXTEND, MASKED, Given
from latentc.components.parts import BlockParts, Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.ir.types import Named
from latentc.systems.randar.instructed_transformer import Inputs, InstructedTransformer, logits_of
from latentc.systems.randar.placed_attention import PlacedAttention, rotated


class TwoPassTransformer(InstructedTransformer):
    """Causal blocks over tokens in any order, then blocks of position queries (ARPG, Li et al. 2025, arXiv:2503.10568).

    The queries are one learned vector, rotated to the position to predict; they do not see each other. The keys and
    values that they attend to are made once, of the last causal block. Methods are those of `instructed_transformer`;
    a group sees all of the group before it, and the caches f32[B, H_kv, S, d] are a pair (keys, values) per causal
    block and the pair that all queries attend to.
    """

    kind: Literal["two_pass_transformer"]  # type: ignore[assignment]
    depth: int = Field(gt=0, le=512, description="number of causal blocks")
    query_depth: int = Field(gt=0, le=512, description="number of blocks of queries")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded condition and tokens, in training")
    learned_positions: bool = Field(
        False,
        description="add a learned vector per position to tokens and queries. The authors' network has none: its "
        "rotary positions are relative, so the first tokens of an order are predicted without their places",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **InstructedTransformer.EXAMPLE,
        "kind": "two_pass_transformer",
        "depth": 1,
        "query_depth": 1,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        mixer = self.block.mixer
        if isinstance(mixer, PlacedAttention) and mixer.qk_norm is not None:
            message = f"blocks of queries of a {self.kind} share their keys, so their attention has no norm of keys"
            yield Problem(("block", "mixer", "qk_norm"), message, "leave it out")

    def block_sizes(self) -> dict[str, Any]:
        return {**super().block_sizes(), "query_depth": self.query_depth}

    @property
    def caches(self) -> int:
        return 2 * self.depth + 2

    def seen(self, sizes: Sequence[int]) -> int:
        """Rows of the cache after groups of these sizes and another: the condition and their tokens."""
        return 1 + sum(sizes)

    def permuted(self, entries: tuple[Entry, ...]) -> BlockBody:
        return _permuted(self, entries)

    def group(self, entries: tuple[Entry, ...], k: int, groups: int) -> BlockBody:
        return _group(self, entries, k, groups)


def _mixer(config: TwoPassTransformer) -> PlacedAttention:
    assert isinstance(config.block.mixer, PlacedAttention)
    return config.block.mixer


@cache
def _attention(config: TwoPassTransformer) -> BlockBody:
    mixer, heads_kv = _mixer(config), _key_heads(config)

    @module_class("QueryAttention", x="B N dim", keys=f"B {heads_kv} S dim//heads", values=f"B {heads_kv} S dim//heads")
    def attention(
        b: Builder, x: Var, keys: Var, values: Var, cos: Var, sin: Var, *mask: Var, dim: int, heads: int, **_: int
    ) -> Var:
        """Multi-head attention of queries, rotated to their positions, to given keys and values."""
        q = dense(b, "q", x, dim, mixer.value_bias, config.weights, out="q")
        q = rotated(b, split_heads(b, q, heads, dim // heads, "q"), cos, sin)
        drop = {"dropout": mixer.weight_dropout} if mixer.weight_dropout else {}
        h = b.attention(q, keys, values, *mask, causal=False, scale=None, **drop, out="h")
        x = dense(b, "proj", joined_heads(b, h, dim, out="h"), dim, mixer.bias, config.weights, out="x")
        return b.dropout(x, p=mixer.dropout, out="x") if mixer.dropout else x

    return attention


def _key_heads(config: TwoPassTransformer) -> str:
    return "kv_heads" if "kv_heads" in _mixer(config).static(config.width) else "heads"


@cache
def _query_block(config: TwoPassTransformer) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    heads_kv = _key_heads(config)

    @module_class("QueryBlock", x="B N dim", keys=f"B {heads_kv} S dim//heads", values=f"B {heads_kv} S dim//heads")
    def block(b: Builder, x: Var, *given: Var, dim: int, **static: Any) -> Var:
        """A transformer block of queries, which attend to given keys and values instead of each other."""
        sizes = {name: static[name] for name in mixer.static(int(dim))}
        mix = lambda h: b.sub("attn", _attention(config), h, *given, dim=dim, **sizes)  # noqa: E731
        parts = BlockParts(mixer, feed_forward, norm, config.weights)
        return condition.branches(b, x, Given(), mix, parts, dim, static)

    return block


class _Passes:
    """Both passes of a network, whose params are the same in all methods."""

    def __init__(self, config: TwoPassTransformer, b: Builder, static: Mapping[str, Any]) -> None:
        self.config, self.b, self.static, self.width = config, b, static, static["width"]
        self.inputs = Inputs(config, b, static)
        self.sizes = config.block.own(self.width, static)

    def condition(self, entries: tuple[Entry, ...], operands: Sequence[Var]) -> Var:
        """f32[B, 1, D]: the embedded class."""
        ((entry, given),) = with_operands(entries, operands)
        return entry.tokens(self.b, "cls_embedding", given, self.width, self.static)[0]

    def tokens(self, idx: Var, at: Var) -> Var:
        """Embedded tokens f32[B, N, D] of idx i64[B, N] at positions i64[B, N]."""
        return self.placed(self.inputs.tokens(idx), at)

    def placed(self, x: Var, at: Var) -> Var:
        """x f32[B, N, D] with the learned vectors of positions i64[B, N] added, if the network has these."""
        if not self.config.learned_positions:
            return x
        table = self.b.param("pos_embed.weight", f32(self.inputs.length, self.width), "normal", std=0.02)
        return self.b.add(x, self.b.embedding(table, at, out="places"), out=x.value.name)

    def shared(self, x: Var, rotary: Sequence[Var]) -> tuple[Var, Var]:
        """Keys and values f32[B, H_kv, N, d] of the outputs x f32[B, N, D] of the causal blocks."""
        b, mixer, heads = self.b, _mixer(self.config), self.static[_key_heads(self.config)]
        size = self.width // self.static["heads"]
        x = self.config.block.parts()[2].apply(b, "key_norm", x)
        kv = dense(b, "kv", x, 2 * heads * size, mixer.value_bias, self.config.weights, out="kv")
        keys, values = b.split(kv, axis=2, sizes=(heads * size,) * 2, out="keys values")
        keys, values = split_heads(b, keys, heads, size, "keys"), split_heads(b, values, heads, size, "values")
        return rotated(b, keys, *rotary), values

    def asked(self, at: Var, keys: Var, values: Var, *mask: Var) -> Var:
        """Logits f32[B, N, V] of positions i64[B, N], whose queries see keys and values."""
        b, batch, count = self.b, at.shape[0], at.shape[1]
        query = b.param("query", f32(1, self.width), "normal", std=0.02)
        query = b.reshape(query, shape=(1, 1, self.width))
        x = self.placed(b.broadcast_to(query, at, shape=(batch, count, self.width), out="x"), at)
        given = (keys, values, *self.inputs.rotary(b.op("add", at, 1, out="target")), *mask)
        for name in items("query_blocks", self.static["query_depth"]):
            x = b.sub(name, _query_block(self.config), x, *given, dim=self.width, **self.sizes)
        return logits_of(self.config, b, x, self.static["vocabulary"])


@cache
def _permuted(config: TwoPassTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, MASKED)

    @module_class("TwoPassTransformer", "permuted", idx="B grid**2-1", order="B T=grid**2")
    def permuted(b: Builder, idx: Var, order: Var, *conditions: Var, **static: Any) -> Var:
        """Logits of every token in an order of positions, given the class and the tokens before it in that order."""
        passes, count = _Passes(config, b, static), Named(int(static["grid"]) ** 2, "T")
        places = b.slice(order, axis=1, start=0, stop=count - 1, out="places")
        x = b.concat(passes.condition(entries, conditions), passes.tokens(idx, places), axis=1, out="x")
        x = passes.inputs.dropped(b.reshape(x, shape=(idx.shape[0], count, passes.width), out="x"))
        zero = b.full(order, shape=(1,), value=0, dtype="i64", out="zero")
        own = b.concat(zero, b.op("add", places, 1, out="place"), axis=1, out="own")
        rotary = passes.inputs.rotary(own)
        row = b.arange(count)
        mask = b.less_equal(b.reshape(row, shape=(1, count)), b.reshape(row, shape=(count, 1)))
        mask = b.reshape(mask, shape=(1, 1, count, count), out="mask")
        for name in items("blocks", static["depth"]):
            x = b.sub(name, block, x, mask, *rotary, dim=passes.width, **passes.sizes)
        return passes.asked(order, *passes.shared(x, rotary), mask)

    return permuted


@cache
def _group(config: TwoPassTransformer, entries: tuple[Entry, ...], k: int, groups: int) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, EXTEND if k else BEGIN)
    heads = _key_heads(config)

    def predicted(passes: _Passes, x: Var, at: Var, asked: Var, caches: Sequence[Var]) -> tuple[Var, ...]:
        """Logits of places `asked`, and the caches with those of x [B, N, D] at rows [B, N] of the rotary tables."""
        b, static = passes.b, passes.static
        rotary = passes.inputs.rotary(at)
        x, grown = cached_blocks(
            b, "blocks", block, int(static["depth"]), x, caches[:-2], others=rotary, dim=passes.width, **passes.sizes
        )
        keys, values = passes.shared(x, rotary)
        if caches:
            keys = b.concat(caches[-2], keys, axis=2, out="keys")
            values = b.concat(caches[-1], values, axis=2, out="values")
        logits = passes.asked(asked, keys, values)
        shape = (asked.shape[0] * int(asked.shape[1]), static["vocabulary"])
        return b.reshape(logits, shape=shape, out="logits"), *((*grown, keys, values) if k < groups - 1 else ())

    if k == 0:

        @module_class("TwoPassTransformer", "group_0", asked="B M")
        def first(b: Builder, asked: Var, *conditions: Var, **static: Any) -> Any:
            """Logits of the first group's tokens, and the caches with the condition in them."""
            passes = _Passes(config, b, static)
            x = passes.inputs.dropped(passes.condition(entries, conditions))
            zero = b.full(asked, shape=(1,), value=0, dtype="i64", out="zero")
            return predicted(passes, x, zero, asked, ())

        return first

    @module_class(
        "TwoPassTransformer",
        f"group_{k}",
        tokens="B N",
        places="B N",
        asked="B M",
        caches=f"B {heads} S width//heads",
    )
    def later(b: Builder, tokens: Var, places: Var, asked: Var, *caches: Var, **static: Any) -> Any:
        """Logits of the next group's tokens, and the caches grown by those of the group before."""
        passes = _Passes(config, b, static)
        x = passes.inputs.dropped(passes.tokens(tokens, places))
        return predicted(passes, x, b.op("add", places, 1, out="place"), asked, caches)

    return later
