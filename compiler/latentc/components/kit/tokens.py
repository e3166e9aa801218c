"""Discrete tokens: draw them, rank them, reveal them by a schedule.

Symbols: B batch, T tokens of a sample, V vocabulary, N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentc.ir.builder import Builder, Var
from latentc.ir.types import Named

NEVER = -1e30
"""The logit of a token that must not be drawn."""

Schedule = Literal["arccos", "cosine", "cubic", "linear", "power_2.5", "root", "square"]
_HIDDEN: dict[str, Callable[[Any], Any]] = {
    "arccos": lambda r: np.arccos(r) / np.asarray(np.pi / 2, r.dtype),
    "cosine": lambda r: np.cos(r * np.asarray(np.pi / 2, r.dtype)),
    "cubic": lambda r: 1 - r**3,
    "linear": lambda r: 1 - r,
    "power_2.5": lambda r: 1 - r**2.5,
    "root": lambda r: 1 - r**0.5,
    "square": lambda r: 1 - r**2,
}


def hidden_fraction(schedule: Schedule, progress: NDArray[np.floating]) -> NDArray[Any]:
    """Fraction of the tokens still hidden at each progress, from 0 (all hidden) to 1 (none), in its dtype."""
    fraction: NDArray[Any] = _HIDDEN[schedule](progress)
    return fraction


def draw(b: Builder, logits: Var, u: Var, out: str = "token") -> Var:
    """i64[...]: the category that u f32[...] falls on in the distribution of logits f32[..., V], by inverse CDF."""
    last, categories = logits.type.rank - 1, int(logits.shape[-1])
    cdf = b.cumsum(b.softmax(logits, axis=last, out="p"), axis=last, out="cdf")
    total = b.slice(cdf, axis=last, start=categories - 1, stop=categories, out="total")
    below = b.less(cdf, b.reshape(u, shape=(*u.shape, 1)) * total, out="below")
    return b.sum(b.cast(below, to="i64"), axes=(last,), keepdims=False, out=out)


def filtered(b: Builder, logits: Var, top_k: int, top_p: float) -> Var:
    """logits f32[..., V] with `NEVER` for what is outside the `top_k` likeliest (0: all) or the `top_p` nucleus."""
    last, categories = logits.type.rank - 1, int(logits.shape[-1])
    k = min(top_k or categories, categories)
    if k == categories and top_p == 1.0:
        return logits
    ordered, _ = b.top_k(logits, k=k, out="ordered order")
    if top_p == 1.0:
        least = b.slice(ordered, axis=last, start=k - 1, stop=k, out="least")
    else:
        # The most likely tokens, up to and including the one that crosses top_p.
        p = b.softmax(ordered, axis=last, out="p")
        before = b.op("sub", b.cumsum(p, axis=last), p, out="before")
        kept = b.where(b.less_equal(before, top_p), ordered, b.scalar(-NEVER, ordered))
        least = b.neg(b.max(b.neg(kept), axes=(last,), keepdims=True), out="least")
    return b.where(b.less(logits, least), b.scalar(NEVER, logits), logits, out="logits")


def rank(b: Builder, x: Var, out: str = "rank") -> Var:
    """i64[B, T]: the place of each element of x in ascending order along the last axis."""
    return b.argsort(b.argsort(x, out="order"), out=out)


def rows(b: Builder, x: Var, index: Var, out: str) -> Var:
    """f32[B, K, D]: the tokens of x [B, T, D] at index i64[B, K]."""
    batch, count = index.shape
    wide = b.broadcast_to(b.reshape(index, shape=(batch, count, 1)), x, shape=(batch, count, x.shape[2]))
    return b.take_along(x, wide, axis=1, out=out)


def joined(b: Builder, sequences: Sequence[tuple[Var, Var | None]]) -> tuple[Var, ...]:
    """Embedded tokens f32[B, L, D] of several conditions in one sequence, and which of them count: bool[B, L].

    Without a mask if all count; nothing without conditions. Each is as `Condition.tokens` returns it.
    """
    if not sequences:
        return ()
    context = _concatenated(b, [x for x, _ in sequences], "context")
    if all(mask is None for _, mask in sequences):
        return (context,)
    masks = [_all_count(b, x) if mask is None else mask for x, mask in sequences]
    return context, _concatenated(b, masks, "mask")


def _concatenated(b: Builder, sequences: Sequence[Var], out: str) -> Var:
    """[B, L, ...]: the sequences in a row, L their length."""
    x = sequences[0] if len(sequences) == 1 else b.concat(*sequences, axis=1, out=out)
    return b.reshape(x, shape=(x.shape[0], Named(int(x.shape[1]), "L"), *x.shape[2:]), out=out)


def _all_count(b: Builder, x: Var) -> Var:
    """bool[B, L] of ones for tokens [B, L, D]."""
    ones = b.full(x, shape=x.shape[1:2], value=1.0, dtype="f32", out="ones")
    return b.greater(ones, 0.5, out="mask")


def digit_base(vocabulary: int, digits: int) -> int | None:
    """V such that every token below `vocabulary` is that many digits below V; None if there is no such number."""
    base = round(vocabulary ** (1 / digits))
    return base if base**digits == vocabulary and base > 1 else None


def bits_of(b: Builder, tokens: Var, bits: int) -> Var:
    """f32[..., bits]: the bits of tokens i64[...] as -1 and 1, the lowest first; zeros for tokens above them."""
    column = b.reshape(tokens, shape=(*tokens.shape, 1))
    signs = b.cast(_digits(b, column, 2, bits), to="f32") * 2.0 - 1.0
    return b.where(b.less(column, 2**bits), signs, 0.0, out="bits")


def split_digits(b: Builder, tokens: Var, base: int, digits: int) -> Var:
    """i64[B, T * digits]: each of tokens i64[B, T] as digits of base `base`, the lowest first."""
    if digits == 1:
        return tokens
    batch, count = tokens.shape
    made = _digits(b, b.reshape(tokens, shape=(batch, count, 1)), base, digits, "digits")
    return b.reshape(made, shape=(batch, Named(int(count) * digits, "T")), out="digits")


def _digits(b: Builder, column: Var, base: int, digits: int, out: str = "") -> Var:
    """i64[..., digits]: the lowest digits of tokens i64[..., 1] in base `base`, the lowest first."""
    last = column.type.rank - 1
    powers = b.constant(base ** np.arange(digits + 1), out="powers")
    above = b.div(column, powers, out="above")  # the token without its lowest 0, 1, … digits
    here = b.slice(above, axis=last, start=0, stop=digits, out="here")
    rest = b.slice(above, axis=last, start=1, stop=digits + 1, out="rest")
    return b.op("sub", here, rest * base, out=out)


def joined_digits(b: Builder, digits: Var, base: int, count: int) -> Var:
    """i64[B, T]: the tokens of which digits i64[B, T * count] are those of base `base`, the lowest first."""
    if count == 1:
        return digits
    tokens = int(digits.shape[1]) // count
    parts = b.reshape(digits, shape=(digits.shape[0], tokens, count))
    powers = b.constant(base ** np.arange(count), out="powers")
    return b.sum(parts * powers, axes=(2,), keepdims=False, out="tokens")
