"""Bounds of an estimate of the data: a number, or a quantile of its own values.

Symbols: B batch, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from latentc.ir.builder import Builder, Var


@dataclass(frozen=True)
class Quantile:
    """Dynamic thresholding (Imagen, Saharia et al. 2022, arXiv:2205.11487): values beyond the quantile of a sample's
    magnitudes, or of a channel's, are set to it, and all are scaled by `least` over it, if it is more than that.
    """

    quantile: float
    least: float
    per_channel: bool = False


Bound = float | Quantile


def bounded(b: Builder, x: Var, bound: Bound, out: str) -> Var:
    """x [B, C, ...] within a bound."""
    if not isinstance(bound, Quantile):
        return b.clamp(x, low=-bound, high=bound, out=out)  # type: ignore[no-any-return]
    batch, channels, *space = x.shape
    groups, own = ((batch, channels), channels) if bound.per_channel else ((batch,), 1)
    count = math.prod(int(size) for size in (*space, *(() if bound.per_channel else (channels,))))
    place = bound.quantile * (count - 1)  # fractional rank in ascending order
    below = min(math.floor(place), count - 1)
    largest, _ = b.top_k(b.reshape(b.abs(x), shape=(*groups, count)), k=count - below, out="largest order")

    def nth(i: int) -> Var:
        return b.slice(largest, axis=len(groups), start=count - 1 - i, stop=count - i)  # type: ignore[no-any-return]

    level: Any = nth(below)
    if place > below:
        level = level + (nth(below + 1) - level) * (place - below)
    level = b.reshape(level, shape=(batch, own, *[1] * len(space)))
    level = b.maximum(level, bound.least, out="level")
    x = b.minimum(b.maximum(x, b.neg(level)), level, out=out)
    return b.div(x if bound.least == 1.0 else x * bound.least, level, out=out)  # type: ignore[no-any-return]


__all__ = ["Bound", "Quantile", "bounded"]
