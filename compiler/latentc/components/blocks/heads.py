"""Channels of tokens divided among the heads of an attention, and back.

Symbols: B batch, T tokens, H heads, d channels of a head, D width.
"""

from __future__ import annotations

from typing import Any

from latentc.ir.builder import Builder, Var


def split_heads(b: Builder, x: Var, heads: Any, size: Any, out: str) -> Var:
    """f32[B, T, H d] -> f32[B, H, T, d], H = `heads` and d = `size`."""
    batch, tokens, _ = x.shape
    return b.transpose(b.reshape(x, shape=(batch, tokens, heads, size)), perm=(0, 2, 1, 3), out=out)


def joined_heads(b: Builder, x: Var, width: Any, out: str = "") -> Var:
    """f32[B, H, T, d] -> f32[B, T, D], D = `width` = H d."""
    batch, _, tokens, _ = x.shape
    return b.reshape(b.transpose(x, perm=(0, 2, 1, 3)), shape=(batch, tokens, width), out=out)
