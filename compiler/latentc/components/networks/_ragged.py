"""Sequences of different lengths in one array: the places of tokens, what each sees, and the last one.

Symbols: B batch, N tokens of a sequence, D width; `counts` f32[B, N] is 1 for the tokens of a sequence.
"""

from __future__ import annotations

from latentc.ir.builder import Builder, Var


def places(b: Builder, counts: Var) -> Var:
    """f32[B, N]: the place of each token among those that count."""
    return b.maximum(b.cumsum(counts, axis=1) - 1.0, 0.0, out="places")  # type: ignore[no-any-return]


def visible(b: Builder, counts: Var) -> Var:
    """bool[B, 1, N, N]: a token sees itself, and those before it that count."""
    batch, length = counts.shape
    row, column = b.reshape(b.arange(length), shape=(length, 1)), b.reshape(b.arange(length), shape=(1, length))
    before = b.reshape(b.less(column, row), shape=(1, length, length))
    itself = b.reshape(b.equal(column, row), shape=(1, length, length))
    known = b.logical_and(before, b.greater(b.reshape(counts, shape=(batch, 1, length)), 0.5))
    return b.reshape(b.logical_or(known, itself), shape=(batch, 1, length, length), out="mask")  # type: ignore[no-any-return]


def last_counted(b: Builder, x: Var, counts: Var) -> Var:
    """f32[B, 1, D]: the features of the last token that counts, of x f32[B, N, D]."""
    batch, length, width = x.shape
    if int(length) == 1:
        return x
    place = b.cast(b.arange(length), to="f32")
    index = b.cast(b.max(b.mul(place, counts), axes=(1,), keepdims=True), to="i64")
    wide = b.broadcast_to(b.reshape(index, shape=(batch, 1, 1)), x, shape=(batch, 1, width))
    return b.take_along(x, wide, axis=1, out="x")  # type: ignore[no-any-return]


__all__ = ["last_counted", "places", "visible"]
