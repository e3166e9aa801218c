"""Texts of which words are hidden: which tokens begin words, and which are hidden, drawn again or left out.

Symbols: B batch, T tokens of a sample, n tokens of a text before the one that ends it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentc.components.kit.texts import counted
from latentc.components.kit.tokens import rank
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B


def inside(b: Builder, tokens: Var, end: int | None) -> Var:
    """f32[B, T]: 1 for the tokens before the first that is `end`."""
    counts = counted(b, tokens, end)
    if counts is None:
        return b.full(tokens, shape=tokens.shape[1:], value=1.0, dtype="f32", out="inside")
    others = b.cast(b.equal(tokens, b.scalar(end, tokens)), to="f32")  # type: ignore[arg-type]
    return b.mul(counts, b.op("sub", 1.0, others), out="inside")


def hidden_count(
    b: Builder, words: Var, share: float, up: bool = False, beside: int = 0, most: int | None = None
) -> Var:
    """f32[B, 1]: share (n + beside), rounded (up), 1 to `most`, of `words` f32[B, T], 1 for the n words of a text."""
    length = b.sum(words, axes=(1,), keepdims=True, out="length")
    # Rounded up, except for float32 rounding errors.
    count = b.maximum(b.floor(length * share + (beside * share + (0.9999 if up else 0.5))), 1.0, out="count")
    return count if most is None else b.minimum(count, float(most), out="count")


def problems_of_starts(starts: str | None, spec: Spec) -> Iterator[Problem]:
    """Refuses `starts` unless it names a data field f32[T], 1 for each token that begins a word."""
    tokens = spec.data.tokens
    if starts is None or tokens is None:
        return
    field = spec.data.fields.get(starts)
    if field is None or field.dtype != "f32" or field.shape != (tokens.length,):
        message = f"`starts` needs a data field with one number per token, but `{starts}` is not such a field"
        yield Problem(("starts",), message, f"add `data.fields.{starts}: {{shape: [{tokens.length}]}}`")


def begins(b: Builder, tokens: Var, starts: Var, end: int | None) -> Var:
    """f32[B, T]: 1 for the tokens i64[B, T] that begin a word, as `starts` f32[B, T] says; a text's first one does."""
    length = int(tokens.shape[1])
    first = b.reshape(b.constant(np.arange(length) < 1, out="first"), shape=(1, length))
    starting = b.logical_or(b.greater(starts, 0.5), first)
    return b.mul(inside(b, tokens, end), b.cast(starting, to="f32"), out="begins")


def hidden_words(
    b: Builder,
    tokens: Var,
    u: Var,
    share: float,
    end: int | None,
    starts: Var | None = None,
    up: bool = False,
    beside: int = 0,
    most: int | None = None,
) -> Var:
    """bool[B, T]: `hidden_count` of the words of each text of tokens i64[B, T], those of the lowest u f32[B, T].

    Words begin where `starts` f32[B, T] is 1; without it every token is one.
    """
    within = inside(b, tokens, end)
    if starts is None:
        words = within
    else:
        number = b.cumsum(begins(b, tokens, starts, end), axis=1, out="number")
        count = b.max(number, axes=(1,), keepdims=True)
        words = b.cast(b.less(b.cast(b.arange(int(tokens.shape[1])), to="f32"), count), to="f32", out="words")
    order = b.cast(rank(b, b.add(u, (1.0 - words) * 2.0, out="key")), to="f32", out="order")
    first = b.cast(b.less(order, hidden_count(b, words, share, up, beside, most)), to="f32")
    if starts is not None:
        word = b.cast(b.maximum(number - 1.0, 0.0), to="i64", out="word")
        first = b.take_along(b.mul(first, words), word, axis=1, out="chosen")
    return b.greater(first * within, 0.5, out="hidden")


def most_places(length: int, share: float) -> int:
    """K, how many places `places_again` draws at most in texts of `length` tokens, their ends included."""
    return max(int(length * share + 1e-4), 1)


def places_again(b: Builder, tokens: Var, u: Var, share: float, end: int | None) -> Var:
    """bool[B, T]: places floor(u n) for share n of u f32[B, K], rounded down, at least one, of n tokens i64[B, T].

    The token that ends a text is one of the n, and places may come again.
    """
    counts, (length, most) = counted(b, tokens, end), (int(tokens.shape[1]), int(u.shape[1]))
    if counts is None:
        counts = b.full(tokens, shape=(length,), value=1.0, dtype="f32", out="counts")
    n = b.sum(counts, axes=(1,), keepdims=True, out="n")
    count = b.maximum(b.floor(n * share + 1e-4), 1.0, out="count")
    place = b.minimum(b.floor(u * n), n - 1.0, out="place")
    drawn = b.less(b.cast(b.arange(most), to="f32"), count, out="drawn")
    place = b.reshape(b.where(drawn, place, b.scalar(-1.0, place)), shape=(B, 1, most), out="place")
    own = b.reshape(b.cast(b.arange(length), to="f32"), shape=(1, length, 1), out="own")
    return b.greater(b.max(b.cast(b.equal(place, own), to="f32"), axes=(2,), keepdims=False), 0.5, out="hidden")


def without_words(
    b: Builder, tokens: Var, u: Var, share: float, end: int | None, mask: int, starts: Var | None = None
) -> Var:
    """i64[B, T]: texts i64[B, T] with one `mask` in place of each of `hidden_words`; `end` fills them up."""
    hidden = hidden_words(b, tokens, u, share, end, starts, up=True)
    seen = b.where(hidden, b.scalar(mask, tokens), tokens, out="seen")
    if starts is None:
        return seen
    length = int(tokens.shape[1])
    more = b.less(begins(b, tokens, starts, end), 0.5)
    gone = b.cast(b.logical_and(hidden, more), to="f32", out="gone")
    place = b.cast(b.arange(length), to="f32", out="place")
    order = b.argsort(b.add(place, gone * float(length), out="key"), out="order")
    left = b.op("sub", float(length), b.sum(gone, axes=(1,), keepdims=True), out="left")
    seen = b.take_along(seen, order, axis=1)
    return b.where(b.less(place, left), seen, b.scalar(end or 0, tokens), out="seen")


def without_span(
    b: Builder, tokens: Var, u: Var, share: float, end: int | None, mask: int, starts: Var | None = None
) -> Var:
    """i64[B, T]: texts i64[B, T] with one `mask` in place of a row of `hidden_count` words; u f32[B, 1] says where."""
    length = int(tokens.shape[1])
    words = inside(b, tokens, end) if starts is None else begins(b, tokens, starts, end)
    count = hidden_count(b, words, share, up=True)
    places = b.sum(words, axes=(1,), keepdims=True) - count + 1.0
    start = b.floor(u * b.maximum(places, 1.0, out="places"), out="start")
    if starts is not None:
        # From words to their tokens.
        number = b.op("sub", b.cumsum(words, axis=1), 1.0, out="number")
        within = inside(b, tokens, end)
        before = b.cast(b.less(number, start), to="f32") * within
        until = b.cast(b.less(number, start + count), to="f32") * within
        start = b.sum(before, axes=(1,), keepdims=True, out="start")
        count = b.op("sub", b.maximum(b.sum(until, axes=(1,), keepdims=True), 1.0), start, out="count")
    place = b.reshape(b.cast(b.arange(length), to="f32"), shape=(1, length), out="place")
    after = b.cast(b.greater(place, start), to="f32", out="after")
    source = b.minimum(b.add(place, after * (count - 1.0)), float(length - 1), out="source")
    shorter = b.take_along(tokens, b.cast(source, to="i64"), axis=1, out="shorter")
    return b.where(b.equal(place, start), b.scalar(mask, tokens), shorter, out="seen")
