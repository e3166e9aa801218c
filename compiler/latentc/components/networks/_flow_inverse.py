"""The inverse of one autoregressive flow: token after token over key-value caches, under guidance or not.

Symbols: B batch, T tokens, L tokens of conditions before them, C channels of a token (`features`), D width (`dim`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from latentc.components.blocks.mixing import cached_blocks
from latentc.components.condition import ports_of
from latentc.components.decoding import BlockForm
from latentc.components.kit.stacks import entry
from latentc.components.networks._flow_block import Flow
from latentc.components.networks._flow_rest import Rest, stacked
from latentc.components.networks._flow_solver import Guidance, Solver
from latentc.components.sampler import FixedPoint
from latentc.ir.builder import BlockBody, Builder, Var, module_class

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
    every: bool = False,
) -> tuple[Var, ...]:
    """Embedded inputs h f32[B, N, D], the first at cache position `position`.

    Returns raw scale, if flows scale, and shift of the token that the last one predicts, or of `every` one, and the
    grown caches.
    """
    mixer, feed_forward, norm, condition = parts.block.parts()
    block = condition.block(mixer, feed_forward, norm, parts.init, BlockForm("decode", plain=True, tempered=True))
    length, count = caches[0].shape[2], h.shape[1]
    if every:
        own = b.op("add", position, b.arange(count), out="own")
        seen = b.less_equal(b.arange(length), b.reshape(own, shape=(count, 1)))
        rows = [b.take(table, own, axis=0, out="row") for table in rotary]
    elif parts.prefix and int(count) > 1:
        seen = b.less_equal(b.arange(length), b.reshape(b.arange(count), shape=(count, 1)))
        rows = [b.slice(table, axis=0, start=0, stop=count, out="row") for table in rotary]
    else:
        seen = b.less_equal(b.arange(length), position)
        rows = [b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out="row") for table in rotary]
    mask = b.reshape(seen, shape=(1, 1, count, length), out="mask")
    sizes, depth, others = parts.block.own(dim, static), len(caches) // 2, (temperature, *rows)
    at = (position, mask)
    h, grown = cached_blocks(b, "attn_blocks", block, depth, h, caches, at, others, out="h", dim=dim, **sizes)
    if int(count) > 1 and not every:
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
        """Processes the first input; returns scale and shift of the next token, and the KV caches."""
        rotary, temperature, told = others[: 2 * parts.rotary], others[2 * parts.rotary], others[2 * parts.rotary + 1 :]
        length = parts.prefix + tokens
        shape = (static.get("kv_heads", static["heads"]), length, static.get("head_width", dim // static["heads"]))
        caches = [b.full(token, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
        h = parts.embedded(b, token, place, [] if parts.prefix else told, tokens, dim)
        if parts.prefix:
            h = b.concat(*told, h, axis=1, out="h")
        position = b.constant(np.int64(0))
        return _step(parts, b, h, position, temperature, caches, rotary, features, dim, static)

    return prefill


@cache
def _decode(parts: Flow, several: bool) -> BlockBody:
    own = parts.block.parts()[0].static(1)
    heads, size = "kv_heads" if "kv_heads" in own else "heads", "head_width" if "head_width" in own else "dim//heads"
    length = f"tokens+{parts.prefix}" if parts.prefix else "tokens"
    token = "B K features" if several else "B 1 features"
    shapes = {"token": token, "c": "B 1 dim", "caches": f"B {heads} {length} {size}"}

    @module_class(parts.cls, "decode_block" if several else "decode", **shapes)
    def decode(
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
        """Predicted scale and shift of the next token, and the extended KV caches."""
        told = bool(parts.entries) and not parts.prefix
        rotary, (temperature, *rest) = others[: 2 * parts.rotary], others[2 * parts.rotary :]
        c, (position, *caches) = rest[:told], rest[told:]
        h = parts.embedded(b, token, place, c, tokens, dim)
        return _step(parts, b, h, position, temperature, caches, rotary, features, dim, static, several)

    if several:
        decode.body.__doc__ = "Predicted scales and shifts of the next tokens, and the extended KV caches."
    return decode


@cache
def flow_inverse(parts: Flow, guidance: Guidance, by: FixedPoint | None = None) -> BlockBody:
    """Tokens from what the flow makes of them, one after the other, or `by` blocks.

    A guided one also takes the conditions of the other branch, an attention temperature f32[B] (of that branch; of both
    for `density`), and the guidance scale of every predicted token f32[N, B]; a tempered one the temperature alone.
    With `parts.given`, z begins with as many tokens that it finds already.
    """
    count = len(ports_of(parts.entries))
    prefill, decode = _prefill(parts), _decode(parts, by is not None)
    guided = guidance in ("linear", "density")

    method = _METHODS[guidance] + "_behind" * (parts.given > 0)

    @module_class(parts.cls, method, z="B tokens features", order="tokens")
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
        solve = Solver(parts, sizes, guidance)
        scales = [others[-1]] if guided else []
        z = b.transpose(b.take(z, order, axis=1), perm=(1, 0, 2), out="z")
        z = b.reshape(z, shape=(tokens, z.shape[1], 1, features), out="z")
        first = parts.first
        known = [] if parts.start else [entry(b, z, 0, "first")]
        weight = [entry(b, scale, 0, "weight") for scale in scales]
        start = known[0] if known else parts.start_token(b, entry(b, z, 0, "like"), features)
        shared = [start, entry(b, order, 0, "place"), *rotary]
        token, *caches = solve(b, prefill, shared, branches, [], entry(b, z, first, "target"), weight)
        if parts.prefix:  # the caches hold the conditions
            branches = [branch[:1] for branch in branches]
        rest = Rest(parts, solve, decode, order, z, scales, rotary, branches)
        found = [stacked(b, x) for x in known]
        if by is not None and parts.frame:
            found.append(rest.by_frames(b, start, caches, by))
        elif by is not None:
            found.append(rest.by_blocks(b, start, caches, by))
        elif parts.given:
            found.append(rest.behind_given(b, start, caches, _decode(parts, several=True)))
        elif int(tokens) > first + 1:
            found += [stacked(b, token), rest.one_by_one(b, token, caches, first + 1)]
        else:
            found.append(stacked(b, token))
        x = b.concat(*found, axis=0) if len(found) > 1 else found[0]
        x = b.reshape(x, shape=(tokens, z.shape[1], features), out="x")
        return b.take(b.transpose(x, perm=(1, 0, 2)), order, axis=1, out="x")  # type: ignore[no-any-return]

    behind, blockwise = ", behind those that are given", ", block by block, by Jacobi iterations"
    if by is not None or parts.given:
        one_by_one = "" if by is not None else ", one after the other"
        words = behind * (parts.given > 0) + (blockwise if by is not None else one_by_one)
        inverse.body.__doc__ = f"Finds the tokens that the flow maps to z{words}."
    return inverse


__all__ = ["flow_inverse"]
