"""Square cells of arrays, counted row by row.

Symbols: B batch, C channels, H and W sides of an array, h and w those of a cell, G cells along a side (`grid`), K = G^2
cells, P side of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentc.ir.builder import Builder, Var


def tokens_of(b: Builder, x: Var, grid: Any, side: Any, patch: Any, tokens: Any) -> Var:
    """x f32[B, C, H, W] as tokens f32[B, T, C P P], cell by cell: `tokens` (T) patches, `side` along one of a cell."""
    batch, channels = x.shape[:2]
    x = b.reshape(x, shape=(batch, channels, grid, side, patch, grid, side, patch))
    x = b.transpose(x, perm=(0, 2, 5, 3, 6, 1, 4, 7))
    return b.reshape(x, shape=(batch, tokens, channels * patch * patch), out="tokens")


def array_of(b: Builder, tokens: Var, channels: Any, grid: Any, side: Any, patch: Any) -> Var:
    """The inverse of `tokens_of`: f32[B, C, H, W]."""
    batch, size = tokens.shape[0], grid * side * patch
    x = b.reshape(tokens, shape=(batch, grid, grid, side, side, channels, patch, patch))
    x = b.transpose(x, perm=(0, 5, 1, 3, 6, 2, 4, 7))
    return b.reshape(x, shape=(batch, channels, size, size), out="x")


def cell_of(b: Builder, x: Var, number: int, grid: int, out: str = "cell") -> Var:
    """Cell `number` of x [..., H, W], of `grid` (G) along a side."""
    for axis, place in ((x.type.rank - 2, number // grid), (x.type.rank - 1, number % grid)):
        side = int(x.shape[axis]) // grid  # type: ignore[arg-type]
        x = b.slice(x, axis=axis, start=place * side, stop=(place + 1) * side, out=out)
    return x


def joined(b: Builder, cells: Sequence[Var], grid: int) -> Var:
    """f32[B, C, H, W] of its cells f32[B, C, h, w]."""
    rows = (
        [b.concat(*cells[i : i + grid], axis=3, out="row") for i in range(0, len(cells), grid)] if grid > 1 else cells
    )
    return b.concat(*rows, axis=2, out="x") if grid > 1 else rows[0]


def spread(b: Builder, values: Var, like: Var, grid: int, out: str) -> Var:
    """A value per cell f32[B, K] as f32[B, 1, H, W], for `like` f32[B, C, H, W]."""
    batch, _, height, width = like.shape
    high, wide = int(height) // grid, int(width) // grid  # type: ignore[arg-type]
    column = b.reshape(values, shape=(batch, 1, grid, 1, grid, 1))
    column = b.broadcast_to(column, like, shape=(batch, 1, grid, high, grid, wide))
    return b.reshape(column, shape=(batch, 1, height, width), out=out)
