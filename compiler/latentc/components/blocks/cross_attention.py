"""Attention of tokens to those of a condition, or of a context of another width.

Symbols: B batch, T tokens, D width, L tokens that are looked at, E their width, H heads, d channels of a head.
"""

from __future__ import annotations

from functools import cache

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.parts import Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class


def queries(b: Builder, x: Var, dim: int, heads: int, bias: bool, init: str, norm: Norm | None = None) -> Var:
    """Queries f32[B, H, T, d] of tokens f32[B, T, D]; `norm` normalises those of all heads at once."""
    q = dense(b, "q", x, dim, bias, init, out="q")
    q = q if norm is None else norm.apply(b, "q_norm", q)
    return split_heads(b, q, heads, dim // heads, "q")


def keys_and_values(
    b: Builder, context: Var, dim: int, heads: int, bias: bool, init: str, norm: Norm | None = None
) -> tuple[Var, Var]:
    """Keys and values f32[B, H, L, d] of a context f32[B, L, E]; `norm` normalises the keys of all heads at once."""
    kv = dense(b, "kv", context, 2 * dim, bias, init, out="kv")
    k, v = b.split(kv, axis=2, sizes=(dim, dim), out="k v")
    k = k if norm is None else norm.apply(b, "k_norm", k)
    return split_heads(b, k, heads, dim // heads, "k"), split_heads(b, v, heads, dim // heads, "v")


def attended(b: Builder, q: Var, k: Var, v: Var, seen: tuple[Var, ...], dim: int, init: str, bias: bool = True) -> Var:
    """Attention of queries to keys and values, where `seen` is true if it is given: f32[B, T, D]."""
    x = joined_heads(b, b.attention(q, k, v, *seen, causal=False, scale=None, out="x"), dim, out="x")
    return dense(b, "proj", x, dim, bias, init, out="x")


def _seen(b: Builder, mask: tuple[Var, ...]) -> tuple[Var, ...]:
    """A mask bool[B, L], if there is one, as attention takes it."""
    return tuple(b.reshape(m, shape=(m.shape[0], 1, 1, m.shape[1]), out="seen") for m in mask)


@module_class("CrossAttention", x="B T dim", context="B L dim")
def cross_attention(b: Builder, x: Var, context: Var, *mask: Var, dim: int, heads: int) -> Var:
    """Multi-head attention of x [B, T, D] to the tokens of a context [B, L, D] where the mask [B, L] is true."""
    q = queries(b, x, dim, heads, True, "xavier")
    k, v = keys_and_values(b, context, dim, heads, True, "xavier")
    return attended(b, q, k, v, _seen(b, mask), dim, "zeros")


@cache
def context_attention(
    init: str, bias: bool, last_bias: bool, norm: Norm | None = None, masked: bool = False
) -> BlockBody:
    """Of a context that may be masked. `norm` normalises queries and keys, each of all heads at once; `bias` is that of
    their layers and the values', `last_bias` that of the output projection.
    """

    @module_class("ContextAttention", x="B T dim", context="B L context_dim")
    def attention(b: Builder, x: Var, context: Var, *others: Var, dim: int, context_dim: int, heads: int) -> Var:
        """Multi-head attention of x [B, T, D] to a context [B, L, E] of a width of its own."""
        mask, rotary = others[:masked], others[masked:]
        q = queries(b, x, dim, heads, bias, init, norm)
        q = b.rotary(q, *rotary, interleaved=True, out="q") if rotary else q
        k, v = keys_and_values(b, context, dim, heads, bias, init, norm)
        return attended(b, q, k, v, _seen(b, mask), dim, init, last_bias)

    return attention
