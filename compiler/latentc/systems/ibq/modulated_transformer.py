"""A causal transformer whose first token is the condition, which also modulates every block: IBQ.

A file of its own because the blocks of a token_transformer do not depend on the condition.

Symbols: B batch, T tokens of a sample, V vocabulary, D width, H_kv key heads, d channels of a head.
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
from latentc.components.parts import Norm, Positions, Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named


class ModulatedTransformer(TokenBlocks):
    """Causal transformer whose first token is the embedded condition, which also scales, shifts and gates every block
    (IBQ, Shi et al. 2024, arXiv:2412.02692).

    `forward`: idx i64[B, T - 1], conditions -> logits f32[B, T, V]; logits i predict token i from the previous ones.
    `prefill`: conditions -> logits f32[B, V] of token 0, then the caches; `decode`: token i64[B], position i64[],
    conditions, caches -> logits f32[B, V] of token `position`, then the grown caches, a pair (keys, values) f32[B,
    H_kv, T, d] per block.
    """

    kind: Literal["modulated_transformer"]
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="rotary positions on the grid")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded tokens, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "modulated_transformer",
        "width": 16,
        "depth": 2,
        "positions": {"kind": "rope_2d"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True, "bias": False},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_token"})
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
        if spec.data.tokens is None:
            yield Problem((), f"a modulated_transformer takes tokens, but the data has {spec.data.words}")
        elif len(grid := spec.data.tokens.grid) != 2 or grid[0] != grid[1]:
            message = f"rotary positions need a square grid of tokens, not {' by '.join(map(str, grid))}"
            yield Problem(("positions",), message, "change `data.tokens.grid`")
        if not self.rotary.ROTARY:
            message = f"positions of a modulated_transformer are rotary, but `{self.positions.kind}` is added"
            yield Problem(("positions",), message, "use `{kind: rope_2d}`")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.block.problems_of_condition(self.kind, "a vector")
        yield from self.block.problems_of_decoding("a modulated_transformer predicts the next token")
        if not self.takes(spec):
            message = "a modulated_transformer begins with a condition, but takes none"
            yield Problem((), message, "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        static: dict[str, Any] = {
            "vocabulary": tokens.vocabulary,
            "grid": tokens.grid[0],
            **self.block_sizes(),
            **self.condition_sizes(spec),
        }
        entries = self.entries(spec)
        cond = ports_of(entries)
        kv_heads = static.get("kv_heads", static["heads"])
        cache_type = f32(B, kv_heads, Named(tokens.length, "T"), self.width // static["heads"])
        caches = (Port("caches", cache_type, "cache"),) * (2 * self.depth)
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        token, position = Port("token", i64(B), "token", tokens.vocabulary), Port("position", i64(), "position")
        idx = Port("idx", i64(B, tokens.length - 1), "state", tokens.vocabulary)
        methods = {
            "forward": add_method(mb, name, "forward", _forward(self, entries), (idx, *cond), static, ("logits",)),
            "prefill": add_method(mb, name, "prefill", _prefill(self, entries), cond, static, grown),
            "decode": add_method(
                mb, name, "decode", _decode(self, entries), (token, position, *cond, *caches), static, grown
            ),
        }
        return Network(name, methods, self.PROVIDES)


def _embedded(b: Builder, idx: Var, vocabulary: int, width: int) -> Var:
    table = b.param("tok_embeddings.weight", f32(vocabulary, width), "normal", std=0.02)
    return b.embedding(table, idx, out="x")


def _logits(b: Builder, x: Var, c: Var, norm: Norm, vocabulary: int, width: int) -> Var:
    x = b.sub("head_norm", _modulated(norm), x, c, dim=width)
    return dense(b, "output", x, vocabulary, False, "zeros")


@cache
def _modulated(norm: Norm) -> BlockBody:
    @module_class("HeadNorm")
    def head_norm(b: Builder, x: Var, c: Var, *, dim: int) -> Var:
        """Normalises the tokens, then scales and shifts them by the condition."""
        modulation = dense(b, "adaLN", b.silu(c), 2 * dim, True, "zeros", out="modulation")
        modulation = b.reshape(modulation, shape=(c.shape[0], 1, 2 * dim), out="modulation")
        scale, shift = b.split(modulation, axis=2, sizes=(dim, dim), out="scale shift")
        return norm.apply(b, "norm", x) * (scale + 1.0) + shift

    return head_norm


def _tables(config: ModulatedTransformer, b: Builder, width: int, static: Mapping[str, Any]) -> tuple[Var, ...]:
    """Rotary tables of the condition and the tokens, f32[1 + T, d / 2]."""
    return config.rotary.rotary(b, width // static["heads"], static["grid"], 1)


@cache
def _forward(config: ModulatedTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("ModulatedTransformer", idx="B grid**2-1")
    def forward(
        b: Builder, idx: Var, *conditions: Var, vocabulary: int, grid: int, width: int, depth: int, **static: Any
    ) -> Var:
        """Logits of every token given the conditions and the tokens before it."""
        length = Named(grid**2, "T")
        c = embedded_sum(b, entries, conditions, width, static)
        x = _embedded(b, idx, vocabulary, width)
        x = b.concat(b.reshape(c, shape=(c.shape[0], 1, width)), x, axis=1, out="x")
        x = b.reshape(x, shape=(x.shape[0], length, width), out="x")
        x = b.dropout(x, p=config.dropout, out="x") if config.dropout else x
        rotary = [
            b.slice(table, axis=0, start=0, stop=length, out=part)
            for table, part in zip(_tables(config, b, width, {**static, "grid": grid}), ("cos", "sin"), strict=True)
        ]
        shared, sizes = condition.shared(b, c, width), config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, shared, *rotary, dim=width, **sizes)
        return _logits(b, x, c, norm, vocabulary, width)

    return forward


def _step(
    config: ModulatedTransformer,
    b: Builder,
    x: Var,
    c: Var,
    position: Var,
    caches: Sequence[Var],
    vocabulary: int,
    width: int,
    static: Mapping[str, Any],
) -> tuple[Var, ...]:
    """One token x [B, 1, D] at `position` through all blocks: logits [B, V] of the next and the grown caches."""
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, DECODE)
    length = Named(static["grid"] ** 2, "T")
    row = [
        b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out=part)
        for table, part in zip(_tables(config, b, width, static), ("cos", "sin"), strict=True)
    ]
    mask = b.reshape(b.less_equal(b.arange(length), position), shape=(1, 1, 1, length), out="mask")
    first, sizes = (condition.shared(b, c, width), position, mask), config.block.own(width, static)
    x, grown = cached_blocks(b, "blocks", block, len(caches) // 2, x, caches, first, row, dim=width, **sizes)
    logits = _logits(b, x, c, norm, vocabulary, width)
    return b.reshape(logits, shape=(x.shape[0], vocabulary), out="logits"), *grown


@cache
def _prefill(config: ModulatedTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("ModulatedTransformer", "prefill")
    def prefill(
        b: Builder, *conditions: Var, vocabulary: int, grid: int, width: int, depth: int, **static: Any
    ) -> tuple[Var, ...]:
        """Starts a sequence with its conditions: logits of token 0, and caches that hold the conditions' token."""
        static["grid"] = grid
        c = embedded_sum(b, entries, conditions, width, static)
        x = b.reshape(c, shape=(c.shape[0], 1, width), out="x")
        shape = (static.get("kv_heads", static["heads"]), Named(grid**2, "T"), width // static["heads"])
        caches = [b.full(x, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        return _step(config, b, x, c, b.constant(np.int64(0)), caches, vocabulary, width, static)

    return prefill


@cache
def _decode(config: ModulatedTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    kv = "kv_heads" if "kv_heads" in config.block.parts()[0].static(config.width) else "heads"
    count = len(ports_of(entries))

    @module_class("ModulatedTransformer", "decode", caches=f"B {kv} T=grid**2 width//heads")
    def decode(
        b: Builder,
        token: Var,
        position: Var,
        *others: Var,
        vocabulary: int,
        grid: int,
        width: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Takes token `position - 1` and gives the logits of token `position`, and the grown caches."""
        static["grid"] = grid
        c = embedded_sum(b, entries, others[:count], width, static)
        x = _embedded(b, b.reshape(token, shape=(token.shape[0], 1)), vocabulary, width)
        return _step(config, b, x, c, position, others[count:], vocabulary, width, static)

    return decode
