"""Tokens of rows and columns as a feature map, and back.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

from latentc.ir.builder import Builder, Var


def columns_of(x: Var, grid: Any) -> Any:
    """The columns of tokens f32[B, T, D] that have `grid` rows: as many in a square."""
    return grid if int(x.shape[1]) == int(grid) ** 2 else x.shape[1] // grid


def as_map(b: Builder, x: Var, grid: int, out: str = "x") -> Var:
    """Tokens f32[B, T, D], row by row, as f32[B, D, grid, T / grid]; a square has as many columns as rows."""
    batch, _, dim = x.shape
    x = b.reshape(
        x, shape=(batch, grid, columns_of(x, grid), dim)
    )  # first, so that engines with a channels-last layout need no copy
    return b.transpose(x, perm=(0, 3, 1, 2), out=out)


def as_tokens(b: Builder, x: Var, tokens: int, out: str = "x") -> Var:
    """The feature map f32[B, D, H, W] as `tokens` = H W tokens, row by row: f32[B, T, D]."""
    batch, dim, _, _ = x.shape
    return b.reshape(b.transpose(x, perm=(0, 2, 3, 1)), shape=(batch, tokens, dim), out=out)
