"""Texts of different lengths: which tokens are a text's, and texts joined into one.

Symbols: B batch, T tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var


def counted(b: Builder, tokens: Var, end: int | None) -> Var | None:
    """f32[B, T]: 1 for the tokens i64[B, T] up to the first that is `end`, included; None if texts do not end."""
    if end is None:
        return None
    ends = b.cast(b.equal(tokens, b.scalar(end, tokens)), to="f32", out="ends")
    before = b.op("sub", b.cumsum(ends, axis=1), ends, out="before")
    return b.cast(b.less(before, 0.5), to="f32", out="counts")


def joined(b: Builder, texts: Sequence[tuple[Var, Var]]) -> tuple[Var, Var]:
    """Texts i64[B, L], each with a mask bool[B, L] of the valid tokens, concatenated: valid tokens come first."""
    if len(texts) == 1:
        return texts[0]
    tokens = b.concat(*(text for text, _ in texts), axis=1, out="prompt")
    known = b.cast(b.concat(*(mask for _, mask in texts), axis=1), to="f32", out="known")
    length = int(tokens.shape[1])
    place = b.cast(b.arange(length), to="f32", out="place")
    order = b.argsort(b.add(place, (1.0 - known) * float(length), out="key"), out="order")
    known = b.take_along(known, order, axis=1, out="known")
    return b.take_along(tokens, order, axis=1, out="prompt"), b.greater(known, 0.5, out="mask")
