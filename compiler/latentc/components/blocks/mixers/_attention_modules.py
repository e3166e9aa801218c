"""The modules that attention is: over whole sequences, and over tokens behind a cache.

Symbols: B batch, T tokens, D width, H heads, d channels of a head, E size of the condition.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from latentc.components.blocks.heads import split_heads
from latentc.components.parts import dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.components.blocks.mixers.attention import Attention


@cache
def whole(config: Attention, init: str) -> BlockBody:
    @module_class("Attention")
    def attention(
        b: Builder, x: Var, *rotary: Var, dim: int, heads: int, kv_heads: int | None = None, grid: int = 0, **own: Any
    ) -> Var:
        """Multi-head self-attention."""
        own = merging(config, b, dim, own)
        return config.attended(b, x, rotary, init, dim, heads, kv_heads, grid, **own)

    return attention


def merging(config: Attention, b: Builder, dim: int, own: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, with the projections of experts, if attributes choose these, in place of their sizes."""
    if config.routed is None:
        return own
    rest = {name: size for name, size in own.items() if name not in ("attention_experts", "lead")}
    return {**rest, "merged": config.routed.merged(b, None, dim, own["attention_experts"], own.get("lead", 0))}


@cache
def conditioned(config: Attention, init: str, projection: bool) -> BlockBody:
    """Of a condition depends the weight of the output `projection`, or else the queries, keys and values."""

    @module_class("GeneratedAttention" if projection else "ConditionedAttention")
    def attention(
        b: Builder,
        x: Var,
        c: Var,
        *rotary: Var,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        grid: int = 0,
        **own: Any,
    ) -> Var:
        """Multi-head self-attention, whose queries, keys and values depend on the condition c [B, E] too."""
        given = (None, c) if projection else (c, None)
        return config.attended(b, x, rotary, init, dim, heads, kv_heads, grid, *given, **own)

    if projection:
        attention.body.__doc__ = "Multi-head self-attention, whose output projection depends on the condition c [B, E]."
    return attention


@cache
def routed(config: Attention, init: str) -> BlockBody:
    @module_class("RoutedAttention")
    def attention(
        b: Builder,
        x: Var,
        c: Var,
        *rotary: Var,
        dim: int,
        heads: int,
        attention_experts: int,
        kv_heads: int | None = None,
        grid: int = 0,
        **own: Any,
    ) -> Var:
        """Multi-head self-attention, whose projections are those of experts that c [B, E] chooses."""
        assert config.routed is not None
        merged = config.routed.merged(b, c, dim, attention_experts)
        return config.attended(b, x, rotary, init, dim, heads, kv_heads, grid, merged=merged, **own)

    return attention


@cache
def masked(config: Attention, init: str) -> BlockBody:
    @module_class("MaskedAttention")
    def attention(
        b: Builder,
        x: Var,
        mask: Var,
        *rotary: Var,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        head_width: int | None = None,
        front: int = 0,
        **own: Any,
    ) -> Var:
        """Multi-head self-attention to the tokens where `mask` is true."""
        own = merging(config, b, dim, own)
        q, k, v = config.heads_of(b, x, rotary, init, dim, heads, kv_heads, head_width=head_width, front=front, **own)
        return config.projected(b, config.mixed(b, q, k, v, mask), dim, init, front=front, **own)

    return attention


@cache
def looking(config: Attention, init: str) -> BlockBody:
    """Keys and values of a context stand behind the tokens' own, which alone have positions."""

    @module_class("ContextualAttention", context="B L context_dim")
    def attention(
        b: Builder, x: Var, context: Var, *mask: Var, dim: int, heads: int, context_dim: int, grid: int = 0
    ) -> Var:
        """Multi-head self-attention, also to tokens of a context [B, L, E] where the mask [B, L] is true."""
        q, k, v = config.turned(b, *config.heads_of(b, x, (), init, dim, heads, None), grid)
        kv = dense(b, "context_kv", context, 2 * dim, config.value_bias, init, out="kv")
        parts = b.split(kv, axis=2, sizes=(dim, dim), out="context_k context_v")
        more = (split_heads(b, part, heads, dim // heads, part.value.name) for part in parts)
        k, v = (b.concat(own, of, axis=2, out=name) for own, of, name in zip((k, v), more, "kv", strict=True))
        seen = None
        if mask:
            own = b.full(x, shape=(x.shape[1],), value=1.0, dtype="bool", out="own")
            seen = b.concat(own, *mask, axis=1, out="seen")
            seen = b.reshape(seen, shape=(x.shape[0], 1, 1, seen.shape[1]), out="seen")
        return config.projected(b, config.mixed(b, q, k, v, seen), dim, init)

    return attention


@cache
def decoding(config: Attention, init: str, tempered: bool, plain: bool) -> BlockBody:
    @module_class("Attention" if plain else "MaskedAttention", "decode")
    def decode(
        b: Builder,
        x: Var,
        position: Var,
        mask: Var,
        keys: Var,
        values: Var,
        *others: Var,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        head_width: int | None = None,
    ) -> tuple[Var, Var, Var]:
        """Attention of one token to itself and the cached ones before it; returns the grown caches too."""
        rotary = others[1:] if tempered else others
        q, k, v = config.heads_of(b, x, rotary, init, dim, heads, kv_heads, head_width=head_width)
        if tempered:
            q = b.div(q, b.reshape(others[0], shape=(x.shape[0], 1, 1, 1), out="temperature"), out="q")
        keys = b.update_slice(keys, k, position, axis=2, out="keys")
        values = b.update_slice(values, v, position, axis=2, out="values")
        x = config.mixed(b, q, keys, values, mask, position)
        return config.projected(b, x, dim, init), keys, values

    return decode


@cache
def extending(config: Attention, init: str, masked: bool, plain: bool) -> BlockBody:
    @module_class("Attention" if plain else "MaskedAttention", "extend")
    def extend(
        b: Builder, x: Var, keys: Var, values: Var, *others: Var, dim: int, heads: int, kv_heads: int | None = None
    ) -> tuple[Var, Var, Var]:
        """Attention of tokens to themselves and to the cache; returns the cache with theirs appended."""
        mask, rotary = (others[0], others[1:]) if masked else (None, others)
        q, k, v = config.heads_of(b, x, rotary, init, dim, heads, kv_heads)
        keys = b.concat(keys, k, axis=2, out="keys")
        values = b.concat(values, v, axis=2, out="values")
        return config.projected(b, config.mixed(b, q, keys, values, mask), dim, init), keys, values

    return extend


@cache
def beginning(config: Attention, init: str, masked: bool, plain: bool) -> BlockBody:
    @module_class("Attention" if plain else "MaskedAttention", "begin")
    def begin(
        b: Builder, x: Var, *others: Var, dim: int, heads: int, kv_heads: int | None = None
    ) -> tuple[Var, Var, Var]:
        """Attention of the first tokens to themselves; returns their keys and values, which begin the cache."""
        mask, rotary = (others[0], others[1:]) if masked else (None, others)
        q, keys, values = config.heads_of(b, x, rotary, init, dim, heads, kv_heads)
        return config.projected(b, config.mixed(b, q, keys, values, mask), dim, init), keys, values

    return begin


__all__ = ["beginning", "conditioned", "decoding", "extending", "looking", "masked", "whole"]
