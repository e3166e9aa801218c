"""Attention of tokens to those of a condition.

Symbols: B batch, T tokens, D width, L tokens of the condition, E their width.
"""

from __future__ import annotations

from functools import cache

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.parts import dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class


@module_class("CrossAttention", x="B T dim", context="B L dim")
def cross_attention(b: Builder, x: Var, context: Var, *mask: Var, dim: int, heads: int) -> Var:
    """Multi-head attention of x [B, T, D] to the tokens of a context [B, L, D] where the mask [B, L] is true."""
    q = dense(b, "q", x, dim, True, "xavier", out="q")
    k, v = b.split(dense(b, "kv", context, 2 * dim, True, "xavier", out="kv"), axis=2, sizes=(dim, dim), out="k v")
    q, k, v = (split_heads(b, part, heads, dim // heads, name) for part, name in ((q, "q"), (k, "k"), (v, "v")))
    seen = [b.reshape(m, shape=(m.shape[0], 1, 1, m.shape[1]), out="seen") for m in mask]
    x = b.attention(q, k, v, *seen, causal=False, scale=None, out="x")
    x = joined_heads(b, x, dim, out="x")
    return dense(b, "proj", x, dim, True, "zeros", out="x")


@cache
def context_attention(init: str) -> BlockBody:
    @module_class("ContextAttention", x="B T dim", context="B L context_dim")
    def attention(b: Builder, x: Var, context: Var, *, dim: int, context_dim: int, heads: int) -> Var:
        """Multi-head attention of x [B, T, D] to a context [B, L, E] of a width of its own, without biases."""
        q = dense(b, "q", x, dim, False, init, out="q")
        k, v = b.split(dense(b, "kv", context, 2 * dim, False, init, out="kv"), axis=2, sizes=(dim, dim), out="k v")
        q, k, v = (split_heads(b, part, heads, dim // heads, name) for part, name in ((q, "q"), (k, "k"), (v, "v")))
        x = joined_heads(b, b.attention(q, k, v, causal=False, scale=None, out="x"), dim, out="x")
        return dense(b, "proj", x, dim, True, init, out="x")

    return attention


__all__ = ["context_attention", "cross_attention"]
