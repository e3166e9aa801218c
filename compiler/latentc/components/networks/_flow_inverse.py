"""The inverse of one autoregressive flow: token after token over key-value caches, under guidance or not.

Symbols: B batch, T tokens, L tokens of conditions before them, C channels of a token (`features`), D width (`dim`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.condition import ports_of
from latentc.components.kit.stacks import entry
from latentc.components.networks._flow_block import Flow
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.ir.types import B, TensorType

Guidance = Literal["none", "tempered", "linear", "density"]
"""How a flow is inverted: under its conditions alone, the same with an attention temperature, or guided away from other
conditions, of scale and shift (TarFlow) or of the densities they stand for (STARFlow)."""

_METHODS: dict[Guidance, str] = {
    "none": "inverse",
    "tempered": "tempered_inverse",
    "linear": "guided_inverse",
    "density": "guided_inverse",
}


def _step(
    parts: Flow,
    b: Builder,
    h: Var,
    position: Var,
    temperature: Var,
    caches: Sequence[Var],
    rotary: Sequence[Var],
    features: int,
    dim: int,
    static: Mapping[str, Any],
) -> tuple[Var, ...]:
    """Embedded inputs h f32[B, N, D], the first at cache position `position`.

    Returns raw scale, if flows scale, and shift of the token that the last one predicts, and the grown caches.
    """
    mixer, feed_forward, norm, condition = parts.block.cached_parts()
    assert isinstance(condition, InContext)
    block = condition.decode_block(mixer, feed_forward, norm, parts.init, tempered=True)
    length, count = caches[0].shape[2], h.shape[1]
    if parts.prefix and int(count) > 1:
        seen = b.less_equal(b.arange(length), b.reshape(b.arange(count), shape=(count, 1)))
        rows = [b.slice(table, axis=0, start=0, stop=count, out="row") for table in rotary]
    else:
        seen = b.less_equal(b.arange(length), position)
        rows = [b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out="row") for table in rotary]
    mask = b.reshape(seen, shape=(1, 1, count, length), out="mask")
    sizes, told, others = parts.block.own(dim, static), (position, mask), (temperature, *rows)
    depth = len(caches) // 2
    h, grown = cached_blocks(b, "attn_blocks", block, depth, h, caches, told, others, out="h", dim=dim, **sizes)
    if int(count) > 1:
        h = b.slice(h, axis=1, start=count - 1, stop=count, out="h")
    return *parts.separate(b, parts.predictions(b, h, features), features), *grown


@cache
def _prefill(parts: Flow) -> BlockBody:
    context = f"B {parts.prefix} dim"

    @module_class(parts.cls, "prefill", token="B 1 features", c=context if parts.prefix else "B 1 dim")
    def prefill(
        b: Builder,
        token: Var,
        place: Var,
        *others: Var,
        features: int,
        tokens: int,
        dim: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, ...]:
        """Starts with the conditions and the first input: what tells the token that it predicts, and the caches."""
        rotary, temperature, told = others[: 2 * parts.rotary], others[2 * parts.rotary], others[2 * parts.rotary + 1 :]
        length = parts.prefix + tokens
        shape = (static.get("kv_heads", static["heads"]), length, dim // static["heads"])
        caches = [b.full(token, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        h = parts.embedded(b, token, place, [] if parts.prefix else told, tokens, dim)
        if parts.prefix:
            h = b.concat(*told, h, axis=1, out="h")
        position = b.constant(np.int64(0))
        return _step(parts, b, h, position, temperature, caches, rotary, features, dim, static)

    return prefill


@cache
def _decode(parts: Flow) -> BlockBody:
    heads = "kv_heads" if "kv_heads" in parts.block.parts()[0].static(1) else "heads"
    length = f"tokens+{parts.prefix}" if parts.prefix else "tokens"
    shapes = {"token": "B 1 features", "c": "B 1 dim", "caches": f"B {heads} {length} dim//heads"}

    def decoded(
        b: Builder, token: Var, place: Var, others: Sequence[Var], told: bool, sizes: Mapping[str, Any]
    ) -> tuple[Var, ...]:
        own = dict(sizes)
        features, tokens, dim, _ = (own.pop(name) for name in ("features", "tokens", "dim", "depth"))
        rotary, (temperature, *rest) = others[: 2 * parts.rotary], others[2 * parts.rotary :]
        c, (position, *caches) = rest[:told], rest[told:]
        h = parts.embedded(b, token, place, c, tokens, dim)
        return _step(parts, b, h, position, temperature, caches, rotary, features, dim, own)

    @module_class(parts.cls, "decode", **shapes)
    def decode(b: Builder, token: Var, place: Var, *others: Var, **sizes: Any) -> tuple[Var, ...]:
        """What tells the token that the one at hand predicts, and the grown caches."""
        return decoded(b, token, place, others, bool(parts.entries) and not parts.prefix, sizes)

    return decode


@cache
def flow_inverse(parts: Flow, guidance: Guidance) -> BlockBody:
    """Tokens from what the flow makes of them.

    A guided one also takes the conditions of the other branch, an attention temperature f32[B] (of that branch; of both
    for `density`), and the guidance scale of every predicted token f32[N, B]; a tempered one the temperature alone.
    """
    count = len(ports_of(parts.entries))
    prefill, decode = _prefill(parts), _decode(parts)
    guided = guidance in ("linear", "density")

    @module_class(parts.cls, _METHODS[guidance], z="B tokens features", order="tokens")
    def inverse(
        b: Builder, z: Var, order: Var, *others: Var, features: int, tokens: int, dim: int, depth: int, **static: Any
    ) -> Var:
        """Finds the tokens that the flow maps to z, one after the other."""
        sizes = {"features": features, "tokens": tokens, "dim": dim, "depth": depth, **static}
        rotary, others = list(others[: 2 * parts.rotary]), others[2 * parts.rotary :]

        def told(operands: Sequence[Var]) -> list[Var]:
            vectors, context = parts.vectors(b, operands, dim, static), parts.prefix_tokens(b, operands, dim, static)
            return [*vectors, *context]

        given = others[-2:-1] if guided else others[-1:] if guidance == "tempered" else ()
        tempered = given and guidance != "linear"
        own = given[0] if tempered else b.full(z, shape=(), value=1.0, dtype="f32", out="one")
        branches = [[own, *told(others[:count])]]
        if guided:
            branches.append([*given, *told(others[count : 2 * count])])
        solve = _Solver(parts, sizes, guidance)
        scales = [others[-1]] if guided else []
        z = b.transpose(b.take(z, order, axis=1), perm=(1, 0, 2), out="z")
        z = b.reshape(z, shape=(tokens, z.shape[1], 1, features), out="z")
        first = parts.first
        known = [] if parts.start else [entry(b, z, 0, "first")]
        weight = [entry(b, scale, 0, "weight") for scale in scales]
        token = known[0] if known else parts.start_token(b, entry(b, z, 0, "like"), features)
        shared = [token, entry(b, order, 0, "place"), *rotary]
        token, *caches = solve(b, prefill, shared, branches, [], entry(b, z, first, "target"), weight)
        found = [_stacked(b, x) for x in (*known, token)]
        if int(tokens) > first + 1:
            # In step i the token before it is at `place` of the grid, or is predicted there: both have its position.
            places = b.slice(order, axis=0, start=1, stop=tokens - first, out="place")
            positions = b.slice(b.arange(tokens), axis=0, start=1, stop=tokens - first, out="position")
            if parts.prefix:
                positions = b.op("add", positions, parts.prefix, out="position")
            rest = b.slice(z, axis=0, start=first + 1, stop=tokens, out="z")
            tables = [positions, places, rest]
            tables += [b.slice(scale, axis=0, start=1, stop=tokens - first, out="scale") for scale in scales]
            if parts.prefix:  # the caches hold the conditions
                branches = [branch[:1] for branch in branches]
            width = len(branches[0])
            invariants = [*rotary, *(x for branch in branches for x in branch)]

            def step(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
                (token, *caches), (position, place, z, *scale) = state, rows
                rotary, flat = kept[: 2 * parts.rotary], kept[2 * parts.rotary :]
                own = [list(flat[j : j + width]) for j in range(0, len(flat), width)]
                token, *caches = solve(b, decode, [token, place, *rotary], own, [position, *caches], z, scale)
                return (token, *caches), (token,)

            *_, others_found = b.loop(
                "inverse",
                int(tokens) - first - 1,
                step,
                invariants=invariants,
                carried=[token, *caches],
                tables=tables,
            )
            found.append(others_found)
        x = b.concat(*found, axis=0) if len(found) > 1 else found[0]
        x = b.reshape(x, shape=(tokens, z.shape[1], features), out="x")
        return b.take(b.transpose(x, perm=(1, 0, 2)), order, axis=1, out="x")  # type: ignore[no-any-return]

    return inverse


def _stacked(b: Builder, x: Var) -> Var:
    return b.reshape(x, shape=(1, *x.shape), out="x")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Solver:
    """Finds the next token by a method of the flow with these static arguments, under guidance or not.

    A branch is its attention temperature, and what steps are told of the conditions.
    """

    parts: Flow
    static: Mapping[str, Any]
    guidance: Guidance

    def __call__(
        self,
        b: Builder,
        method: BlockBody,
        shared: Sequence[Var],
        branches: Sequence[Sequence[Var]],
        rest: Sequence[Var],
        z: Var,
        scale: Sequence[Var],
    ) -> list[Var]:
        """[z * scale + shift, *grown caches]; `rest` are the position and the caches, of both branches."""
        own, *null = branches
        operands = (*shared, *own, *rest)
        fn = b.module.define(
            method, [self._of_one_branch(x) for x in operands], self.static, [x.value.name for x in operands]
        )
        caches = 2 * int(self.static["depth"])
        names = " ".join([*self.parts.outputs, *["cache"] * caches])
        if self.guidance == "linear":
            # The tables of positions are for both branches as they are: they have no batch.
            tables = ("carried",) * (2 * self.parts.rotary)
            shared_kinds = ("shared",) * (len(shared) - len(tables)) + tables
            kinds = (*shared_kinds, *("conditional",) * len(own), *("carried",) * len(rest))
            guided = {name: self.parts.guides in ("both", name.rpartition("_")[2]) for name in self.parts.outputs}
            guides = (*("guided" if each else "carried" for each in guided.values()), *("carried",) * caches)
            found = b.guided(fn, "", operands, kinds, tuple(null[0]), scale[0], guides, out=names)
            told = [x if each else self._own(b, x, z) for x, each in zip(found, guided.values(), strict=False)]
        elif self.guidance == "density":
            token, *others = shared
            both = [b.concat(x, other, axis=0) for x, other in zip(own, null[0], strict=True)]
            doubled = (b.concat(token, token, axis=0), *others, *both, *rest)
            raw, shift, *grown = b.call(fn, "", *doubled, args=self.static, out=names)
            return [self._guided(b, raw, shift, z, scale[0]), *grown]
        else:
            found = b.call(fn, "", *operands, args=self.static, out=names)
            told = list(found[: len(self.parts.outputs)])
        *raws, shift = told
        for raw in raws:
            z = b.mul(z, self.parts.scale(b, raw))
        return [b.add(z, shift, out="token"), *found[len(told) :]]

    def _own(self, b: Builder, x: Var, z: Var) -> Var:
        """The half of x [2 * B, 1, C] of the branch that the conditions tell."""
        own, _ = b.split(x, axis=0, sizes=(z.shape[0], z.shape[0]), out=f"{x.value.name} other")
        return own  # type: ignore[no-any-return]

    def _guided(self, b: Builder, raw: Var, shift: Var, z: Var, scale: Var) -> Var:
        """The token that z means under p_c (p_c / p_u)^(scale - 1), of the normal densities of both branches.

        That is a normal density again. With w = scale - 1 and s the ratio of their variances, at most 1, its mean is
        ((1 + w) mu_c - w s mu_u) / (1 + w - w s), and its variance that of p_c over the same denominator.
        """
        batch = z.shape[0]
        sigma, other_sigma = b.split(self.parts.scale(b, raw), axis=0, sizes=(batch, batch), out="sigma other_sigma")
        mu, other_mu = b.split(shift, axis=0, sizes=(batch, batch), out="mu other_mu")
        w = b.add(b.reshape(scale, shape=(batch, 1, 1)), -1.0, out="w")
        ratio = b.minimum(sigma / other_sigma, 1.0, out="ratio")
        ws = b.mul(w, ratio * ratio, out="ws")
        total = b.op("sub", w + 1.0, ws, out="total")
        mu = b.div(b.op("sub", (w + 1.0) * mu, ws * other_mu), total, out="mu")
        return b.add(b.mul(z, b.div(sigma, b.sqrt(total), out="sigma")), mu, out="token")  # type: ignore[no-any-return]

    def _of_one_branch(self, x: Var) -> TensorType:
        """Caches hold both branches; a method is of one."""
        if x.type.rank != 4:
            return x.type
        heads = self.static.get("kv_heads", self.static["heads"])
        length = self.parts.prefix + self.static["tokens"]
        return f32(B, heads, length, self.static["dim"] // self.static["heads"])


__all__ = ["Guidance", "flow_inverse"]
