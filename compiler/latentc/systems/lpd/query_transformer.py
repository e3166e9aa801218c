"""A transformer that predicts any tokens from any others, by a query per position: LPD.

A file of its own because its sequence holds known tokens and queries of the positions to predict, which see each other
within a group; a token_transformer predicts the next token of each.

Symbols: B batch, T tokens of a sample, n known tokens and m queries of a step, S tokens before, V vocabulary, D width,
H_kv key heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, embedded_sum, ports_of
from latentc.components.contract import Method, Network, Port
from latentc.components.decoding import MASKED, BlockForm
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named, TensorType


class QueryTransformer(TokenBlocks):
    """Transformer over known tokens and position queries (LPD, Zhang et al. 2025, arXiv:2507.01957).

    `forward`: idx i64[B, T], order i64[B, T] (the position at each place of the order), mask bool[B, 2 T + 1, 2 T + 1]
    (which of condition, known tokens and queries see each other, in that order), the conditions -> logits f32[B, T, V]
    of the places. `group_0`: positions i64[B, m] to predict, the conditions -> logits f32[B m, V], and the caches, a
    pair (keys, values) f32[B, H_kv, known tokens, d] per block; `group_1`, …: tokens i64[B, n] of the previous group,
    their positions i64[B, n], positions to predict i64[B, m], the caches -> the same.
    """

    kind: Literal["query_transformer"]
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "query_transformer",
        "width": 16,
        "depth": 2,
        "block": {**Block.EXAMPLE, "feed_forward": {"kind": "gelu_mlp", "approximate": "none"}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"any_order"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("length",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            yield Problem((), f"a query_transformer takes tokens, but the data has {spec.data.words}")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_chunks(self.kind)
        yield from self.block.problems_of_condition(self.kind, None)
        if not self.takes(spec):
            message = "a query_transformer begins with a condition, but takes none"
            yield Problem((), message, "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        static, entries = self._static(spec), self.entries(spec)
        length = Named(static["length"], "T")
        ports = (
            Port("idx", i64(B, length), "state", static["vocabulary"]),
            Port("order", i64(B, length), "position"),
            Port("mask", TensorType("bool", (B, 2 * length + 1, 2 * length + 1)), "mask"),
            *ports_of(entries),
        )
        forward = add_method(mb, name, "forward", _forward(self, entries), ports, static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES)

    def _static(self, spec: Spec) -> dict[str, Any]:
        tokens = spec.data.tokens
        assert tokens is not None
        return {
            "vocabulary": tokens.vocabulary,
            "length": tokens.length,
            **self.block_sizes(),
            **self.condition_sizes(spec),
        }

    def group_methods(self, mb: ModuleBuilder, name: str, spec: Spec, sizes: Sequence[int]) -> Mapping[str, Method]:
        """The methods `group_0`, … that predict groups of these sizes one after the other."""
        static, entries = self._static(spec), self.entries(spec)
        kv_heads, size = static.get("kv_heads", static["heads"]), self.width // static["heads"]
        methods, known, cache_ = dict[str, Method](), 1, f32(B, kv_heads, 1, size)
        role: Role = "cache"
        for k, count in enumerate(sizes):
            asked = Port("asked", i64(B, count), "position")
            ports: tuple[Port, ...] = (asked, *ports_of(entries))
            if k:
                before = sizes[k - 1]
                given = (Port("tokens", i64(B, before), "token", static["vocabulary"]),)
                caches = (Port("caches", cache_, role),) * (2 * self.depth)
                ports = (*given, Port("places", i64(B, before), "position"), asked, *caches)
                known += before
            cache_ = f32(B, kv_heads, known, size)
            outputs: tuple[Role, ...] = ("logits", *(role,) * (0 if k == len(sizes) - 1 else 2 * self.depth))
            body = _group(self, entries, k, len(sizes))
            methods[f"group_{k}"] = add_method(mb, name, f"group_{k}", body, ports, static, outputs)
        return methods


class _Embedding:
    """Known tokens and queries f32[B, …, D], with the embedding of their positions, normalised."""

    def __init__(self, b: Builder, length: int, width: int, vocabulary: int) -> None:
        self.b, self.width, self.vocabulary = b, width, vocabulary
        # of the condition, then of each position
        self.positions = b.param("positions", f32(1, length + 1, width), "normal", std=0.02)
        self.length = length

    def _normalised(self, x: Var, out: str) -> Var:
        norm = LayerNorm(kind="layer_norm", eps=1e-6, affine=True)
        x = norm.apply(self.b, "input_norm", x)
        return self.b.reshape(x, shape=x.shape, out=out)

    def condition(self, c: Var) -> Var:
        x = self.b.reshape(c, shape=(c.shape[0], 1, self.width))
        place = self.b.slice(self.positions, axis=1, start=0, stop=1, out="place")
        return self._normalised(self.b.add(x, place, out="x"), "x")

    def _places(self, at: Var) -> Var:
        """Embeddings [B, n, D] of positions i64[B, n]."""
        table = self.b.slice(self.positions, axis=1, start=1, stop=self.length + 1)
        table = self.b.reshape(table, shape=(self.length, self.width), out="table")
        return self.b.embedding(table, at, out="places")

    def tokens(self, idx: Var, at: Var) -> Var:
        table = self.b.param("tok_embeddings.weight", f32(self.vocabulary, self.width), "normal", std=0.02)
        return self._normalised(self.b.add(self.b.embedding(table, idx), self._places(at), out="x"), "known")

    def queries(self, at: Var) -> Var:
        token = self.b.param("query", f32(1, 1, self.width), "normal", std=0.02)
        return self._normalised(self.b.add(self._places(at), token, out="x"), "queries")


@cache
def _forward(config: QueryTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, MASKED)

    @module_class("QueryTransformer", idx="B T=length", order="B T=length", mask="B N N")
    def forward(
        b: Builder,
        idx: Var,
        order: Var,
        mask: Var,
        *conditions: Var,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        **static: Any,
    ) -> Var:
        """Logits of the tokens in an order of generation, each given those that its query sees."""
        batch, tokens = idx.shape[0], Named(length, "T")
        embed = _Embedding(b, length, width, vocabulary)
        start = embed.condition(embedded_sum(b, entries, conditions, width, static))
        known = embed.tokens(b.take_along(idx, order, axis=1, out="ordered"), order)
        x = b.concat(start, known, embed.queries(order), axis=1, out="x")
        size = 2 * tokens + 1
        mask = b.reshape(mask, shape=(batch, 1, size, size), out="mask")
        sizes = config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, mask, dim=width, **sizes)
        x = b.slice(norm.apply(b, "norm", x), axis=1, start=int(length) + 1, stop=2 * int(length) + 1, out="x")
        x = b.reshape(x, shape=(batch, tokens, width), out="x")
        return dense(b, "output", x, vocabulary, False, config.weights, out="logits")

    return forward


@cache
def _group(config: QueryTransformer, entries: tuple[Entry, ...], k: int, groups: int) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, BlockForm("extend" if k else "begin", True))
    heads = "kv_heads" if "kv_heads" in mixer.static(config.width) else "heads"

    def predicted(
        b: Builder,
        known: Var,
        queries: Var,
        caches: Sequence[Var],
        width: int,
        depth: int,
        vocabulary: int,
        static: Any,
    ) -> tuple[Var, ...]:
        batch, count, asked = known.shape[0], known.shape[1], queries.shape[1]
        before = caches[0].shape[2] if caches else 0
        x = b.concat(known, queries, axis=1, out="x")
        row, column = b.arange(count + asked), b.arange(before + count + asked)
        # Known tokens do not attend to queries, whose keys and values are not cached.
        seen = b.less(b.reshape(column, shape=(1, before + count + asked)), before + count)
        asks = b.less(count - 1, b.reshape(row, shape=(count + asked, 1)))
        mask = b.logical_or(seen, asks, out="mask")
        mask = b.reshape(mask, shape=(1, 1, count + asked, before + count + asked), out="mask")
        sizes, grown = config.block.own(width, static), list[Var]()
        for i in range(int(depth)):
            operands = (x, *caches[2 * i : 2 * i + 2], mask)
            x, keys, values = b.sub(f"blocks.{i}", block, *operands, out="x keys values", dim=width, **sizes)
            kept = (b.slice(t, axis=2, start=0, stop=int(before + count), out=t.value.name) for t in (keys, values))
            grown += kept if k < groups - 1 else ()
        x = b.slice(norm.apply(b, "norm", x), axis=1, start=int(count), stop=int(count + asked), out="x")
        logits = dense(b, "output", x, vocabulary, False, config.weights, out="logits")
        return b.reshape(logits, shape=(batch * int(asked), vocabulary), out="logits"), *grown

    if k == 0:

        @module_class("QueryTransformer", "group_0", asked="B M")
        def first(
            b: Builder,
            asked: Var,
            *conditions: Var,
            vocabulary: int,
            length: int,
            width: int,
            depth: int,
            **static: Any,
        ) -> Any:
            """Logits of the first group's tokens, and the caches with the condition in them."""
            embed = _Embedding(b, length, width, vocabulary)
            known = embed.condition(embedded_sum(b, entries, conditions, width, static))
            return predicted(b, known, embed.queries(asked), (), width, depth, vocabulary, static)

        return first

    @module_class(
        "QueryTransformer",
        f"group_{k}",
        tokens="B N",
        places="B N",
        asked="B M",
        caches=f"B {heads} S width//heads",
    )
    def later(
        b: Builder,
        tokens: Var,
        places: Var,
        asked: Var,
        *caches: Var,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        **static: Any,
    ) -> Any:
        """Logits of the next group's tokens, and the caches grown by those of the group before."""
        embed = _Embedding(b, length, width, vocabulary)
        known, queries = embed.tokens(tokens, places), embed.queries(asked)
        return predicted(b, known, queries, caches, width, depth, vocabulary, static)

    return later
