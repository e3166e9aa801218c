"""Attention of tokens to those of an encoder, whose keys and values decoding steps get from a cache.

Beside cross_attention: that starts at zero, has no cached form, and takes all tokens of the condition at once.

Symbols: B batch, T tokens, S tokens of the encoder, D width, H heads, d channels of a head.
"""

from __future__ import annotations

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.parts import dense
from latentc.ir.builder import Builder, Var, module_class


def _looked_up(b: Builder, x: Var, keys: Var, values: Var, mask: Var, dim: int, heads: int) -> Var:
    q = split_heads(b, dense(b, "q", x, dim, True, "normal", out="q"), heads, dim // heads, "q")
    x = b.attention(q, keys, values, mask, causal=False, scale=None, out="x")
    return dense(b, "proj", joined_heads(b, x, dim), dim, True, "normal", out="x")


def _kept(b: Builder, context: Var, dim: int, heads: int) -> tuple[Var, Var]:
    kv = dense(b, "kv", context, 2 * dim, True, "normal", out="kv")
    keys, values = b.split(kv, axis=2, sizes=(dim, dim), out="keys values")
    return split_heads(b, keys, heads, dim // heads, "keys"), split_heads(b, values, heads, dim // heads, "values")


@module_class("EncoderAttention")
def encoder_attention(b: Builder, x: Var, context: Var, mask: Var, *, dim: int, heads: int) -> Var:
    """Attention of x [B, T, D] to the encoder's tokens [B, S, D] where the mask bool[B, 1, 1, S] is true."""
    keys, values = _kept(b, context, dim, heads)
    return _looked_up(b, x, keys, values, mask, dim, heads)


@module_class("EncoderAttention", "remember")
def remember(b: Builder, context: Var, *, dim: int, heads: int) -> tuple[Var, Var]:
    """Keys and values [B, H, S, d] of the encoder's tokens [B, S, D]."""
    return _kept(b, context, dim, heads)


@module_class("EncoderAttention", "look_up")
def look_up(b: Builder, x: Var, keys: Var, values: Var, mask: Var, *, dim: int, heads: int) -> Var:
    """Attention of x [B, T, D] to keys and values [B, H, S, d] where the mask is true."""
    return _looked_up(b, x, keys, values, mask, dim, heads)


__all__ = ["encoder_attention", "look_up", "remember"]
