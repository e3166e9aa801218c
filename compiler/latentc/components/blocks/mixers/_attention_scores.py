"""Masks and biases of the scores of attention.

Symbols: B batch, T tokens, H heads.
"""

from __future__ import annotations

from typing import Any

from latentc.ir.builder import Builder, Var, f32

UNSEEN = -3e4
"""Score of a token that must not be seen: the softmax of it is 0, and it fits in half precision."""


def seen_with_first(b: Builder, tokens: Any, first: int, mask: Var | None) -> Var:
    """bool[1 or B, 1, T, T]: those of the tokens of `mask` that each sees, which are those before it and the first."""
    place = b.arange(tokens, out="place")
    column = b.reshape(place, shape=(1, tokens), out="column")
    seen = b.less_equal(column, b.reshape(place, shape=(tokens, 1)), out="before")
    seen = b.reshape(b.logical_or(seen, b.less(column, first)), shape=(1, 1, tokens, tokens), out="seen")
    return seen if mask is None else b.logical_and(mask, seen, out="seen")  # type: ignore[no-any-return]


def masked_bias(b: Builder, bias: Var, mask: Var | None) -> Var:
    """Scores, or a bias of them, with what `mask` says."""
    if mask is None:
        return bias
    if mask.type.dtype == "bool":
        return b.where(mask, bias, UNSEEN, out="bias")
    return b.add(bias, mask, out="bias")


def relative_bias(b: Builder, heads: int, grid: int, tokens: int) -> Var:
    """f32[1, H, T, T] for a square of tokens of side `grid`: a row of the table per offset of rows and columns."""
    span = 2 * grid - 1
    table = b.param("relative_position_bias_table", f32(span**2, heads), "normal", std=0.02)
    steps = b.arange(grid, out="steps")
    offset = b.reshape(steps, shape=(grid, 1)) - b.reshape(steps, shape=(1, grid))
    offset = b.op("add", offset, grid - 1, out="offset")
    rows = b.op("mul", b.reshape(offset, shape=(grid, 1, grid, 1)), span, out="rows")
    index = b.op("add", rows, b.reshape(offset, shape=(1, grid, 1, grid)), out="index")
    bias = b.embedding(table, b.reshape(index, shape=(tokens, tokens)), out="bias")
    return b.reshape(b.transpose(bias, perm=(2, 0, 1)), shape=(1, heads, tokens, tokens), out="bias")  # type: ignore[no-any-return]


__all__ = ["UNSEEN", "masked_bias", "relative_bias", "seen_with_first"]
