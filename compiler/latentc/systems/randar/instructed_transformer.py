"""A causal transformer over tokens in any order, each preceded by an instruction: RandAR.

Symbols: B batch, T tokens of a sample, n tokens of the group before, m of the one to predict, S tokens in the cache,
V vocabulary, D width, H heads, H_kv key heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Method, Network, Port
from latentc.components.decoding import MASKED, BlockForm
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.randar.placed_attention import PlacedAttention, rotated


class InstructedTransformer(TokenBlocks):
    """Causal transformer over instructions and tokens in any order (RandAR, Pang et al. 2024, arXiv:2412.01827).

    `permuted`: idx i64[B, T - 1], the first tokens of an order, order i64[B, T], the class -> logits f32[B, T, V] in
    that order. `group_0`: positions i64[B, m] to predict, the class -> logits f32[B m, V], and the caches, a pair
    (keys, values) f32[B, H_kv, S, d] per block; `group_1`, …: tokens i64[B, n] of the previous group, their positions
    i64[B, n], positions to predict i64[B, m], the caches -> the same. Of a group's instructions only the first is
    cached: the next call repeats the others, each before the token that was drawn for it.
    """

    kind: Literal["instructed_transformer"]
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest rotary wavelength")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded tokens, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "instructed_transformer",
        "width": 16,
        "depth": 2,
        "block": {
            "mixer": {"kind": "placed_attention", "heads": 2, "bias": False},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"permuted_tokens", "instructed_tokens"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("grid",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            message = f"a {self.kind} takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "add `data.tokens`")
        elif len(grid := spec.data.tokens.grid) != 2 or grid[0] != grid[1]:
            sides = " by ".join(map(str, grid))
            yield Problem((), f"a {self.kind} needs a square grid of tokens, not {sides}")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_chunks(self.kind)
        yield from self.block.problems_of_condition(self.kind, None)
        if not isinstance(self.block.mixer, PlacedAttention):
            message = (
                f"tokens of a {self.kind} have positions per sample, which `{self.block.mixer.kind}` does not take"
            )
            yield Problem(("block", "mixer"), message, "use `{kind: placed_attention}`")
        else:
            yield from Rope2d(kind="rope_2d").problems_of_head(self.block.mixer.head_size(self.width))
        if len(self.takes(spec)) != 1:
            message = f"a {self.kind} begins with one condition"
            yield Problem(("conditions",), message, "use one condition `{kind: label}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        static, entries = self._static(spec), self.entries(spec)
        length = Named(static["grid"] ** 2, "T")
        ports = (
            Port("idx", i64(B, length - 1), "state", static["vocabulary"]),
            Port("order", i64(B, length), "position"),
            *ports_of(entries),
        )
        permuted = add_method(mb, name, "permuted", self.permuted(entries), ports, static, ("logits",))
        return Network(name, {"permuted": permuted}, self.PROVIDES)

    def _static(self, spec: Spec) -> dict[str, Any]:
        tokens = spec.data.tokens
        assert tokens is not None
        sizes = {"vocabulary": tokens.vocabulary, "grid": tokens.grid[0]}
        return {**sizes, **self.block_sizes(), **self.condition_sizes(spec)}

    def group_methods(self, mb: ModuleBuilder, name: str, spec: Spec, sizes: Sequence[int]) -> Mapping[str, Method]:
        """The methods `group_0`, … that predict groups of these sizes one after the other."""
        static, entries = self._static(spec), self.entries(spec)
        kv_heads, size = static.get("kv_heads", static["heads"]), self.width // static["heads"]
        methods, role = dict[str, Method](), _CACHE
        for k, count in enumerate(sizes):
            asked = Port("asked", i64(B, count), "position")
            ports: tuple[Port, ...] = (asked, *ports_of(entries))
            if k:
                before = sizes[k - 1]
                given = (Port("tokens", i64(B, before), "token", static["vocabulary"]),)
                caches = (Port("caches", f32(B, kv_heads, self.seen(sizes[: k - 1]), size), role),) * self.caches
                ports = (*given, Port("places", i64(B, before), "position"), asked, *caches)
            grown = (role,) * (0 if k == len(sizes) - 1 else self.caches)
            body = self.group(entries, k, len(sizes))
            methods[f"group_{k}"] = add_method(mb, name, f"group_{k}", body, ports, static, ("logits", *grown))
        return methods

    @property
    def caches(self) -> int:
        """Number of arrays that a cache consists of."""
        return 2 * self.depth

    def seen(self, sizes: Sequence[int]) -> int:
        """Rows of the cache after groups of these sizes and another: the condition, the first instruction of that
        group, and instruction and token of those before.
        """
        return 2 + 2 * sum(sizes)

    def permuted(self, entries: tuple[Entry, ...]) -> BlockBody:
        """The body of `permuted`."""
        return _permuted(self, entries)

    def group(self, entries: tuple[Entry, ...], k: int, groups: int) -> BlockBody:
        """The body of `group_K`."""
        return _group(self, entries, k, groups)


_CACHE: Role = "cache"


class Inputs:
    """Embedded tokens and instructions, and the rotary tables of their places."""

    def __init__(self, config: InstructedTransformer, b: Builder, static: Mapping[str, Any]) -> None:
        self.b, self.width, self.heads = b, static["width"], static["heads"]
        self.vocabulary, self.length = static["vocabulary"], static["grid"] ** 2
        self.size = self.width // self.heads
        rope = Rope2d(kind="rope_2d", base=config.base)
        self.cos, self.sin = rope.rotary(b, self.size, static["grid"], 1)
        self.dropout = config.dropout

    def tokens(self, idx: Var) -> Var:
        table = self.b.param("tok_embeddings.weight", f32(self.vocabulary, self.width), "normal", std=0.02)
        return self.b.embedding(table, idx, out="tokens")

    def dropped(self, x: Var) -> Var:
        """Embeddings after the dropout of the network."""
        return self.b.dropout(x, p=self.dropout, out=x.value.name) if self.dropout else x

    def instructions(self, at: Var) -> Var:
        """f32[B, N, D]: the learned vector, its heads rotated as the places i64[B, N] to predict say."""
        b, length, width = self.b, self.length, self.width
        vector = b.param("instruction", f32(1, width), "normal", std=0.02)
        heads = b.reshape(vector, shape=(1, self.heads, 1, self.size))
        tables = (b.slice(t, axis=0, start=1, stop=length + 1) for t in (self.cos, self.sin))
        tables = (b.reshape(t, shape=(1, length, self.size // 2)) for t in tables)
        rows = b.transpose(rotated(b, heads, *tables), perm=(0, 2, 1, 3))
        return b.embedding(b.reshape(rows, shape=(length, width), out="rows"), at, out="instructions")

    def rotary(self, at: Var) -> tuple[Var, Var]:
        """(cos, sin) f32[B, N, d / 2] of places i64[B, N]; place 0 is the condition's, whose table is of zeros."""
        return self.b.embedding(self.cos, at, out="cos"), self.b.embedding(self.sin, at, out="sin")


def _alternating(b: Builder, first: Var, second: Var) -> Var:
    """[B, 2 N, ...]: rows of both [B, N, ...] in turn."""
    shape = first.shape
    pairs = [b.reshape(t, shape=(shape[0], shape[1], 1, *shape[2:])) for t in (first, second)]
    return b.reshape(b.concat(*pairs, axis=2), shape=(shape[0], 2 * shape[1], *shape[2:]))


def logits_of(config: InstructedTransformer, b: Builder, x: Var, vocabulary: Any) -> Var:
    """f32[B, N, V]: logits of features x f32[B, N, D], by a layer that starts at 0."""
    norm = config.block.parts()[2]
    return dense(b, "output", norm.apply(b, "norm", x), vocabulary, False, "zeros", out="logits")


@cache
def _permuted(config: InstructedTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, MASKED)

    @module_class("InstructedTransformer", "permuted", idx="B grid**2-1", order="B T=grid**2")
    def permuted(b: Builder, idx: Var, order: Var, *conditions: Var, width: int, depth: int, **static: Any) -> Var:
        """Logits of every token in an order of positions, given the class and the tokens before it in that order."""
        static = {**static, "width": width}
        inputs, batch, count = Inputs(config, b, static), idx.shape[0], int(static["grid"]) ** 2
        ((entry, operands),) = with_operands(entries, conditions)
        cond, _ = entry.tokens(b, "cls_embedding", operands, width, static)
        asked, place = inputs.instructions(order), b.op("add", order, 1, out="place")
        before = b.slice(asked, axis=1, start=0, stop=count - 1, out="before")
        pairs = _alternating(b, before, inputs.dropped(inputs.tokens(idx)))
        x = b.concat(cond, pairs, b.slice(asked, axis=1, start=count - 1, stop=count), axis=1, out="x")
        at = b.slice(place, axis=1, start=0, stop=count - 1, out="at")
        zero = b.full(order, shape=(1,), value=0, dtype="i64", out="zero")
        last = b.slice(place, axis=1, start=count - 1, stop=count)
        at = b.concat(zero, _alternating(b, at, at), last, axis=1, out="at")
        rotary = inputs.rotary(at)
        row = b.arange(2 * count)
        mask = b.less_equal(b.reshape(row, shape=(1, 2 * count)), b.reshape(row, shape=(2 * count, 1)))
        mask = b.reshape(mask, shape=(1, 1, 2 * count, 2 * count), out="mask")
        for name in items("blocks", depth):
            x = b.sub(name, block, x, mask, *rotary, dim=width, **config.block.own(width, static))
        x = b.take(x, b.constant(1 + 2 * np.arange(count), out="instructed"), axis=1, out="x")
        x = b.reshape(x, shape=(batch, Named(count, "T"), width), out="x")
        return logits_of(config, b, x, static["vocabulary"])

    return permuted


@cache
def _group(config: InstructedTransformer, entries: tuple[Entry, ...], k: int, groups: int) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, BlockForm("extend" if k else "begin", True))
    heads = "kv_heads" if "kv_heads" in mixer.static(config.width) else "heads"

    def predicted(
        b: Builder, x: Var, at: Var, asked: Var, caches: Sequence[Var], inputs: Inputs, static: Mapping[str, Any]
    ) -> tuple[Var, ...]:
        """Logits of the last tokens of x [B, N, D] at places [B, N], and the caches up to the first of those."""
        count, wanted = x.shape[1], asked.shape[1]
        before = caches[0].shape[2] if caches else 0
        row, column = b.arange(count), b.arange(before + count)
        mask = b.less_equal(
            b.reshape(column, shape=(1, before + count)), b.reshape(row + int(before), shape=(count, 1))
        )
        mask = b.reshape(mask, shape=(1, 1, count, before + count), out="mask")
        rotary, grown, width = inputs.rotary(at), list[Var](), static["width"]
        sizes = config.block.own(width, static)
        for i in range(int(static["depth"])):
            operands = (x, *caches[2 * i : 2 * i + 2], mask, *rotary)
            x, keys, values = b.sub(f"blocks.{i}", block, *operands, out="x keys values", dim=width, **sizes)
            stop = int(before + count - wanted) + 1
            kept = (b.slice(t, axis=2, start=0, stop=stop, out=t.value.name) for t in (keys, values))
            grown += kept if k < groups - 1 else ()
        x = b.slice(x, axis=1, start=int(count - wanted), stop=int(count), out="x")
        logits = logits_of(config, b, x, static["vocabulary"])
        return b.reshape(logits, shape=(x.shape[0] * int(wanted), static["vocabulary"]), out="logits"), *grown

    if k == 0:

        @module_class("InstructedTransformer", "group_0", asked="B M")
        def first(b: Builder, asked: Var, *conditions: Var, **static: Any) -> Any:
            """Logits of the first group's tokens, and the caches with the condition in them."""
            inputs = Inputs(config, b, static)
            ((entry, operands),) = with_operands(entries, conditions)
            cond, _ = entry.tokens(b, "cls_embedding", operands, static["width"], static)
            x = b.concat(cond, inputs.instructions(asked), axis=1, out="x")
            zero = b.full(asked, shape=(1,), value=0, dtype="i64", out="zero")
            at = b.concat(zero, b.op("add", asked, 1), axis=1, out="at")
            return predicted(b, x, at, asked, (), inputs, static)

        return first

    @module_class(
        "InstructedTransformer",
        f"group_{k}",
        tokens="B N",
        places="B N",
        asked="B M",
        caches=f"B {heads} S width//heads",
    )
    def later(b: Builder, tokens: Var, places: Var, asked: Var, *caches: Var, **static: Any) -> Any:
        """Logits of the next group's tokens, and the caches grown by those of the group before."""
        inputs, known = Inputs(config, b, static), int(tokens.shape[1])
        instructions, drawn = inputs.instructions(places), inputs.dropped(inputs.tokens(tokens))
        at, then = b.op("add", places, 1, out="place"), b.op("add", asked, 1)
        # Of the group before, the cache holds the first instruction: its tokens follow, between the others.
        pairs, twice = _alternating(b, instructions, drawn), _alternating(b, at, at)
        pairs, twice = (b.slice(t, axis=1, start=1, stop=2 * known) for t in (pairs, twice))
        x = b.concat(pairs, inputs.instructions(asked), axis=1, out="x")
        return predicted(b, x, b.concat(twice, then, axis=1, out="at"), asked, caches, inputs, static)

    return later
