"""One autoregressive flow of a transformer_flow: a causal transformer that normalises tokens, and its inverse.

Symbols: B batch, T tokens, C channels of a token (`features`), D width (`dim`), L tokens at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np

from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.condition import Entry, ports_of, with_operands
from latentc.components.parts import Weights, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.ir.types import B, TensorType


def _condition(
    b: Builder, entries: tuple[Entry, ...], operands: Sequence[Var], dim: int, sizes: Mapping[str, Any]
) -> list[Var]:
    """[f32[B, 1, D]]: the sum of the embedded conditions; nothing without conditions."""
    vectors = [
        entry.vector(b, f"{entry.name}_embed", own, dim, sizes) for entry, own in with_operands(entries, operands)
    ]
    if not vectors:
        return []
    total = reduce(lambda a, v: b.add(a, v, out="c"), vectors)
    return [b.reshape(total, shape=(total.shape[0], 1, dim), out="c")]


def _embedded(b: Builder, x: Var, places: Var, told: Sequence[Var], tokens: int, dim: int, init: str) -> Var:
    """f32[B, L, D]: tokens x f32[B, L, C] that belong to `places` of the grid, with their positions and conditions."""
    positions = b.take(b.param("pos_embed", f32(tokens, dim), "normal", std=0.01), places, axis=0, out="positions")
    h = b.add(dense(b, "proj_in", x, dim, True, init), positions, out="h")
    return reduce(lambda h, c: b.add(h, c, out="h"), told, h)


@cache
def flow(parts: Block, init: Weights, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = parts.parts()
    block = condition.block(mixer, feed_forward, norm, init)

    @module_class("FlowBlock", x="B tokens features", order="tokens")
    def forward(
        b: Builder,
        x: Var,
        order: Var,
        *conditions: Var,
        features: int,
        tokens: int,
        dim: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, Var]:
        """Normalises each token by a scale and shift that depend on the tokens before it in `order`."""
        x = b.take(x, order, axis=1, out="x")
        h = _embedded(b, x, order, _condition(b, entries, conditions, dim, static), tokens, dim, init)
        for name in items("attn_blocks", depth):
            h = b.sub(name, block, h, dim=dim, out="h", **parts.own(dim, static))
        # What a token's features say is of the next token; nothing is said of the first, which stays as it is.
        h = dense(b, "proj_out", h, 2 * features, True, "zeros", out="h")
        h = b.slice(h, axis=1, start=0, stop=tokens - 1, out="h")
        h = b.pad(h, axis=1, before=1, after=0, value=0.0, out="h")
        log_scale, shift = b.split(h, axis=2, sizes=(features, features), out="log_scale shift")
        z = b.mul(x - shift, b.exp(-log_scale), out="z")
        log_det = b.neg(b.mean(log_scale, axes=(1, 2), keepdims=False), out="log_det")
        return b.take(z, order, axis=1, out="z"), log_det  # `order` is its own inverse

    return forward


def _step(
    parts: Block,
    init: Weights,
    b: Builder,
    h: Var,
    position: Var,
    temperature: Var,
    caches: Sequence[Var],
    features: int,
    dim: int,
    static: Mapping[str, Any],
) -> tuple[Var, ...]:
    """One embedded token h f32[B, 1, D] through all blocks: log scale and shift of the next token, grown caches."""
    mixer, feed_forward, norm, condition = parts.parts()
    assert isinstance(condition, InContext)
    block = condition.decode_block(mixer, feed_forward, norm, init, tempered=True)
    length = caches[0].shape[2]
    mask = b.reshape(b.less_equal(b.arange(length), position), shape=(1, 1, 1, length), out="mask")
    grown: list[Var] = []
    for i in range(len(caches) // 2):
        operands = (h, position, mask, *caches[2 * i : 2 * i + 2], temperature)
        h, keys, values = b.sub(
            f"attn_blocks.{i}", block, *operands, out="h keys values", dim=dim, **parts.own(dim, static)
        )
        grown += [keys, values]
    h = dense(b, "proj_out", h, 2 * features, True, "zeros", out="h")
    log_scale, shift = b.split(h, axis=2, sizes=(features, features), out="log_scale shift")
    return log_scale, shift, *grown


@cache
def _prefill(parts: Block, init: Weights) -> BlockBody:
    @module_class("FlowBlock", "prefill", token="B 1 features", c="B 1 dim")
    def prefill(
        b: Builder,
        token: Var,
        place: Var,
        temperature: Var,
        *c: Var,
        features: int,
        tokens: int,
        dim: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Starts with the first token: log scale and shift of the second, and the caches."""
        shape = (static.get("kv_heads", static["heads"]), tokens, dim // static["heads"])
        caches = [b.full(token, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        h = _embedded(b, token, place, c, tokens, dim, init)
        return _step(parts, init, b, h, b.constant(np.int64(0)), temperature, caches, features, dim, static)

    return prefill


@cache
def _decode(parts: Block, init: Weights, told: bool) -> BlockBody:
    heads = "kv_heads" if "kv_heads" in parts.parts()[0].static(1) else "heads"
    caches_shape = f"B {heads} tokens dim//heads"

    @module_class("FlowBlock", "decode", token="B 1 features", c="B 1 dim", caches=caches_shape)
    def decode(
        b: Builder,
        token: Var,
        place: Var,
        temperature: Var,
        c: Var,
        position: Var,
        *caches: Var,
        features: int,
        tokens: int,
        dim: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Log scale and shift of the token after `position` from the one there, and the grown caches."""
        h = _embedded(b, token, place, [c], tokens, dim, init)
        return _step(parts, init, b, h, position, temperature, caches, features, dim, static)

    @module_class("FlowBlock", "decode", token="B 1 features", caches=caches_shape)
    def decode_unconditional(
        b: Builder,
        token: Var,
        place: Var,
        temperature: Var,
        position: Var,
        *caches: Var,
        features: int,
        tokens: int,
        dim: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Log scale and shift of the token after `position` from the one there, and the grown caches."""
        h = _embedded(b, token, place, [], tokens, dim, init)
        return _step(parts, init, b, h, position, temperature, caches, features, dim, static)

    return decode if told else decode_unconditional


@cache
def flow_inverse(parts: Block, init: Weights, entries: tuple[Entry, ...], guided: bool) -> BlockBody:
    """Tokens from what the flow makes of them.

    A guided one also takes the conditions of the other branch, its attention temperature f32[B], and the guidance scale
    f32[T - 1, B] of every token but the first.
    """
    count = len(ports_of(entries))
    prefill, decode = _prefill(parts, init), _decode(parts, init, told=bool(entries))

    @module_class("FlowBlock", "guided_inverse" if guided else "inverse", z="B tokens features", order="tokens")
    def inverse(
        b: Builder, z: Var, order: Var, *others: Var, features: int, tokens: int, dim: int, depth: int, **static: Any
    ) -> Var:
        """Finds the tokens that the flow maps to z, one after the other."""
        sizes = {"features": features, "tokens": tokens, "dim": dim, "depth": depth, **static}
        solve = _Solver(sizes, 1 + bool(entries), guided)
        one = b.full(z, shape=(), value=1.0, dtype="f32", out="one")
        branches = [one, *_condition(b, entries, others[:count], dim, static)]
        if guided:
            branches += [others[-2], *_condition(b, entries, others[count : 2 * count], dim, static)]
        scales = [others[-1]] if guided else []
        z = b.transpose(b.take(z, order, axis=1), perm=(1, 0, 2), out="z")
        z = b.reshape(z, shape=(tokens, z.shape[1], 1, features), out="z")
        first, second = _row(b, z, 0, "first"), _row(b, z, 1, "second")
        weight = [_row(b, scale, 0, "weight") for scale in scales]
        token, *caches = solve(b, prefill, [first, _row(b, order, 0, "place")], branches, [], second, weight)
        found = [_stacked(b, first), _stacked(b, token)]
        if int(tokens) > 2:
            positions = b.slice(b.arange(tokens), axis=0, start=1, stop=tokens - 1, out="position")
            places = b.slice(order, axis=0, start=1, stop=tokens - 1, out="place")
            rest = b.slice(z, axis=0, start=2, stop=tokens, out="z")
            tables = [positions, places, rest]
            tables += [b.slice(scale, axis=0, start=1, stop=tokens - 1, out="scale") for scale in scales]

            def step(b: Builder, i: Var, branches: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
                (token, *caches), (position, place, z, *scale) = state, rows
                token, *caches = solve(b, decode, [token, place], branches, [position, *caches], z, scale)
                return (token, *caches), (token,)

            *_, others_found = b.loop(
                "inverse", int(tokens) - 2, step, invariants=branches, carried=[token, *caches], tables=tables
            )
            found.append(others_found)
        x = b.reshape(b.concat(*found, axis=0), shape=(tokens, first.shape[0], features), out="x")
        return b.take(b.transpose(x, perm=(1, 0, 2)), order, axis=1, out="x")  # type: ignore[no-any-return]

    return inverse


def _row(b: Builder, table: Var, i: int, out: str) -> Var:
    one = b.slice(table, axis=0, start=i, stop=i + 1)
    return b.reshape(one, shape=table.shape[1:], out=out)  # type: ignore[no-any-return]


def _stacked(b: Builder, x: Var) -> Var:
    return b.reshape(x, shape=(1, *x.shape), out="x")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Solver:
    """Finds the next token by a method of the flow with these static arguments, under guidance or not.

    A branch is `width` operands: attention temperature, and the embedded conditions if there are any.
    """

    static: Mapping[str, Any]
    width: int
    guided: bool

    def __call__(
        self,
        b: Builder,
        method: BlockBody,
        shared: Sequence[Var],
        branches: Sequence[Var],
        rest: Sequence[Var],
        z: Var,
        scale: Sequence[Var],
    ) -> list[Var]:
        """[z exp(log scale) + shift, *grown caches]; `rest` are the position and the caches, of both branches."""
        own, null = branches[: self.width], branches[self.width :]
        operands = (*shared, *own, *rest)
        fn = b.module.define(
            method, [self._of_one_branch(x) for x in operands], self.static, [x.value.name for x in operands]
        )
        caches = 2 * int(self.static["depth"])
        names = " ".join(["log_scale", "shift", *["cache"] * caches])
        if self.guided:
            kinds = ("shared",) * len(shared) + ("conditional",) * len(own) + ("carried",) * len(rest)
            guides = ("guided", "guided", *("carried",) * caches)
            log_scale, shift, *grown = b.guided(fn, "", operands, kinds, null, scale[0], guides, out=names)
        else:
            log_scale, shift, *grown = b.call(fn, "", *operands, args=self.static, out=names)
        return [b.add(b.mul(z, b.exp(log_scale)), shift, out="token"), *grown]

    def _of_one_branch(self, x: Var) -> TensorType:
        """Caches hold both branches; a method is of one."""
        if x.type.rank != 4:
            return x.type
        heads = self.static.get("kv_heads", self.static["heads"])
        return f32(B, heads, self.static["tokens"], self.static["dim"] // self.static["heads"])


__all__ = ["flow", "flow_inverse"]
