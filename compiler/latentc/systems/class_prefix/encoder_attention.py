"""Attention of a decoder's tokens to those of the encoder.

Symbols: B batch, T tokens, L tokens of the encoder, D width, H heads, d channels of a head.
"""

from __future__ import annotations

from latentc.components.blocks.cross_attention import attended, keys_and_values, queries
from latentc.ir.builder import Builder, Var, module_class


@module_class("EncoderAttention")
def encoder_attention(b: Builder, x: Var, context: Var, mask: Var, *, dim: int, heads: int) -> Var:
    """Attention of x [B, T, D] to the encoder's tokens [B, L, D] where the mask bool[B, 1, 1, L] is true."""
    q = queries(b, x, dim, heads, True, "normal")
    k, v = keys_and_values(b, context, dim, heads, True, "normal")
    return attended(b, q, k, v, (mask,), dim, "normal")


@module_class("EncoderAttention", "remember")
def remember(b: Builder, context: Var, *, dim: int, heads: int) -> tuple[Var, Var]:
    """Keys and values [B, H, L, d] of the encoder's tokens [B, L, D], which decoding steps look at again."""
    return keys_and_values(b, context, dim, heads, True, "normal")


@module_class("EncoderAttention", "look_up")
def look_up(b: Builder, x: Var, k: Var, v: Var, mask: Var, *, dim: int, heads: int) -> Var:
    """Attention of x [B, T, D] to keys and values [B, H, L, d] where the mask is true."""
    return attended(b, queries(b, x, dim, heads, True, "normal"), k, v, (mask,), dim, "normal")
