"""Tokens of a square as a feature map, and back.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from latentc.ir.builder import Builder, Var


def as_map(b: Builder, x: Var, grid: int, out: str = "x") -> Var:
    """Tokens f32[B, T, D], row by row, as f32[B, D, grid, grid]."""
    batch, _, dim = x.shape
    x = b.reshape(x, shape=(batch, grid, grid, dim))  # first, so that engines with channels last need no copy
    return b.transpose(x, perm=(0, 3, 1, 2), out=out)  # type: ignore[no-any-return]


def as_tokens(b: Builder, x: Var, tokens: int, out: str = "x") -> Var:
    """The feature map f32[B, D, H, W] as `tokens` = H W tokens, row by row: f32[B, T, D]."""
    batch, dim, _, _ = x.shape
    return b.reshape(b.transpose(x, perm=(0, 2, 3, 1)), shape=(batch, tokens, dim), out=out)  # type: ignore[no-any-return]


__all__ = ["as_map", "as_tokens"]
