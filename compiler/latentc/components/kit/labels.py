"""Maps of labels as channels. Symbols: B batch, K labels, H and W sides of a map."""

from __future__ import annotations

from typing import Any

from latentc.ir.builder import Builder, Var


def one_hot(b: Builder, x: Var, count: Any, out: str) -> Var:
    """f32[B, K, H, W] of labels x i64[B, H, W] below K = `count`: 1 in the channel of each, 0 in others."""
    labels = b.constant(list(range(int(count))), out="labels")
    column = b.reshape(labels, shape=(labels.shape[0], 1, 1))
    hot = b.equal(b.reshape(x, shape=(x.shape[0], 1, *x.shape[1:])), column)
    return b.cast(hot, to="f32", out=out)
