"""Texts of different lengths: which tokens are a text's, and losses of those alone.

Symbols: B batch, T tokens of a sample, n tokens of a text before the one that ends it.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentc.components.kit.calls import per_sample_mean
from latentc.components.kit.tokens import rank
from latentc.ir.builder import Builder, Var


def counted(b: Builder, tokens: Var, end: int | None) -> Var | None:
    """f32[B, T]: 1 for the tokens i64[B, T] up to the first that is `end`, included; None if texts do not end."""
    if end is None:
        return None
    ends = b.cast(b.equal(tokens, b.scalar(end, tokens)), to="f32", out="ends")
    before = b.op("sub", b.cumsum(ends, axis=1), ends, out="before")
    return b.cast(b.less(before, 0.5), to="f32", out="counts")  # type: ignore[no-any-return]


def joined(b: Builder, texts: Sequence[tuple[Var, Var]]) -> tuple[Var, Var]:
    """Texts i64[B, L], each with a mask bool[B, L] of the tokens that count, one behind the other: those come first."""
    if len(texts) == 1:
        return texts[0]
    tokens = b.concat(*(text for text, _ in texts), axis=1, out="prompt")
    known = b.cast(b.concat(*(mask for _, mask in texts), axis=1), to="f32", out="known")
    length = int(tokens.shape[1])
    place = b.cast(b.arange(length), to="f32", out="place")
    order = b.argsort(b.add(place, (1.0 - known) * float(length), out="key"), out="order")
    known = b.take_along(known, order, axis=1, out="known")
    return b.take_along(tokens, order, axis=1, out="prompt"), b.greater(known, 0.5, out="mask")


def mean_of_text(b: Builder, losses: Var, tokens: Var, end: int | None) -> Var:
    """f32[B]: the mean of losses f32[B, T] over the tokens of each text."""
    counts = counted(b, tokens, end)
    if counts is None:
        return per_sample_mean(b, losses, out="loss")
    total = b.sum(losses * counts, axes=(1,), keepdims=False, out="total")
    return b.div(total, b.sum(counts, axes=(1,), keepdims=False), out="loss")  # type: ignore[no-any-return]


def inside(b: Builder, tokens: Var, end: int | None) -> Var:
    """f32[B, T]: 1 for the tokens before the first that is `end`."""
    counts = counted(b, tokens, end)
    if counts is None:
        return b.full(tokens, shape=tokens.shape[1:], value=1.0, dtype="f32", out="inside")  # type: ignore[no-any-return]
    others = b.cast(b.equal(tokens, b.scalar(end, tokens)), to="f32")  # type: ignore[arg-type]
    return b.mul(counts, b.op("sub", 1.0, others), out="inside")  # type: ignore[no-any-return]


def hidden_count(b: Builder, within: Var, share: float) -> Var:
    """f32[B, 1]: round(share n), at least 1, of `within` f32[B, T], which is 1 for the n tokens of a text."""
    length = b.sum(within, axes=(1,), keepdims=True, out="length")
    return b.maximum(b.floor(length * share + 0.5), 1.0, out="count")  # type: ignore[no-any-return]


def hidden_words(b: Builder, tokens: Var, u: Var, share: float, end: int | None) -> Var:
    """bool[B, T]: `hidden_count` of the tokens i64[B, T] of each text, those of the lowest u f32[B, T]."""
    within = inside(b, tokens, end)
    order = b.cast(rank(b, b.add(u, (1.0 - within) * 2.0, out="key")), to="f32", out="order")
    first = b.cast(b.less(order, hidden_count(b, within, share)), to="f32")
    return b.greater(first * within, 0.5, out="hidden")  # type: ignore[no-any-return]


def without_span(b: Builder, tokens: Var, u: Var, share: float, end: int | None, mask: int) -> Var:
    """i64[B, T]: texts i64[B, T] with `mask` in place of a span of `hidden_count` tokens; u f32[B, 1] says where."""
    length = int(tokens.shape[1])
    within = inside(b, tokens, end)
    count = hidden_count(b, within, share)
    starts = b.sum(within, axes=(1,), keepdims=True) - count + 1.0
    start = b.floor(u * b.maximum(starts, 1.0, out="starts"), out="start")
    place = b.reshape(b.cast(b.arange(length), to="f32"), shape=(1, length), out="place")
    behind = b.cast(b.greater(place, start), to="f32", out="behind")
    source = b.minimum(b.add(place, behind * (count - 1.0)), float(length - 1), out="source")
    shorter = b.take_along(tokens, b.cast(source, to="i64"), axis=1, out="shorter")
    return b.where(b.equal(place, start), b.scalar(mask, tokens), shorter, out="seen")  # type: ignore[no-any-return]
