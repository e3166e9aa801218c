"""Ops of images [B, C, H, W]: larger by repetition, smaller by the mean or maximum of squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, free, need
from latentc.ir.types import TensorType


def _upsample_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = ins
    factor = attrs["factor"]
    need(x.rank == 4 and x.dtype != "bool", f"takes numbers [B, C, H, W], got {x}")
    need(isinstance(factor, int) and factor > 0, f"factor is a positive whole number, not {factor}")
    return [x.with_shape([*x.shape[:2], x.shape[2] * factor, x.shape[3] * factor])]


def _upsample(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [xs[0].repeat(attrs["factor"], axis=2).repeat(attrs["factor"], axis=3)]


def _upsample_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), factor = ins, attrs["factor"]
    batch, channels, rows, columns = x.shape
    spread = b.broadcast_to(
        b.reshape(x, shape=(batch, channels, rows, 1, columns, 1)),
        shape=(batch, channels, rows, factor, columns, factor),
    )
    return [b.reshape(spread, shape=(batch, channels, rows * factor, columns * factor))]


def _pool_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = ins
    size = attrs["size"]
    need(x.rank == 4 and x.is_float, f"takes floats [B, C, H, W], got {x}")
    need(isinstance(size, int) and size > 0, f"size is a positive whole number, not {size}")
    need(x.shape[2] % size == 0 and x.shape[3] % size == 0, f"squares of {size} do not tile {x}")
    return [x.with_shape([*x.shape[:2], x.shape[2] // size, x.shape[3] // size])]


def _squares(x: Array, size: int) -> Array:
    """[B, C, H', size, W', size] view of an image."""
    batch, channels, rows, columns = x.shape
    return x.reshape(batch, channels, rows // size, size, columns // size, size)


def _pool_decompose(reduction: str) -> Any:
    def decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
        (x,), size = ins, attrs["size"]
        batch, channels, rows, columns = x.shape
        squares = b.reshape(x, shape=(batch, channels, rows // size, size, columns // size, size))
        return [b.op(reduction, squares, axes=(3, 5), keepdims=False)]

    return decompose


_ROWS = [
    Op(
        "upsample_nearest",
        "each pixel as a square of `factor` by `factor`",
        _upsample_infer,
        _upsample,
        None,
        free,
        _upsample_decompose,
        attrs="factor",
    ),
    Op(
        "avg_pool2d",
        "the mean of each square of `size` by `size`",
        _pool_infer,
        lambda xs, a: [np.asarray(_squares(xs[0], a["size"]).mean(axis=(3, 5)))],
        None,
        lambda ins, outs, attrs: ins[0].count(),
        _pool_decompose("mean"),
        attrs="size",
    ),
    Op(
        "max_pool2d",
        "the maximum of each square of `size` by `size`",
        _pool_infer,
        lambda xs, a: [np.asarray(_squares(xs[0], a["size"]).max(axis=(3, 5)))],
        None,
        lambda ins, outs, attrs: ins[0].count(),
        _pool_decompose("max"),
        attrs="size",
    ),
]
OPS = {row.name: row for row in _ROWS}
