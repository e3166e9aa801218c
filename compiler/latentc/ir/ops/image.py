"""Resampling of [B, C, *space] by integer factors, one for all axes or one per axis; resizing to any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, floats, need, numbers, per_axis
from latentc.ir.types import TensorType


def factors_of(name: str, attrs: Attrs, axes: int) -> tuple[int, ...]:
    """Attribute `name` (`factor` or `size`) per spatial axis. Raises OpError unless all are positive."""
    values = per_axis(name, attrs[name], axes)
    need(min(values) > 0, "{} is {}; wants positive numbers", name, attrs[name])
    return values


def _space(x: TensorType) -> int:
    need(3 <= x.rank <= 5, "takes [B, C, *space] with 1 to 3 spatial axes, got {}", x)
    return x.rank - 2


def _upsample_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = numbers(ins, attrs)
    factors = factors_of("factor", attrs, _space(x))
    return [x.with_shape([*x.shape[:2], *(n * f for n, f in zip(x.shape[2:], factors, strict=True))])]


def _upsample(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    (x,) = xs
    for axis, factor in enumerate(factors_of("factor", attrs, x.ndim - 2), 2):
        x = x.repeat(factor, axis=axis)
    return [x]


def _upsample_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,) = ins
    lead, space = x.shape[:2], x.shape[2:]
    factors = factors_of("factor", attrs, len(space))
    split = b.reshape(x, shape=(*lead, *(d for n in space for d in (n, 1))))
    spread = b.broadcast_to(split, shape=(*lead, *(d for pair in zip(space, factors, strict=True) for d in pair)))
    return [b.reshape(spread, shape=(*lead, *(n * f for n, f in zip(space, factors, strict=True))))]


def _pool_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = floats(ins, attrs)
    sizes = factors_of("size", attrs, _space(x))
    for n, size in zip(x.shape[2:], sizes, strict=True):
        need(n % size == 0, "windows of {} do not tile {}", size, x)  # type: ignore[operator]
    return [x.with_shape([*x.shape[:2], *(n // size for n, size in zip(x.shape[2:], sizes, strict=True))])]


def _windows(shape: Sequence[Any], attrs: Attrs) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Shape with each spatial axis split into (windows, size), and the axes of the sizes."""
    sizes = factors_of("size", attrs, len(shape) - 2)
    split = (d for n, size in zip(shape[2:], sizes, strict=True) for d in (n // size, size))
    return (*shape[:2], *split), tuple(range(3, 2 * len(shape) - 2, 2))


def _pool_row(name: str, reduction: str, doc: str) -> Op:
    def evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        shape, axes = _windows(xs[0].shape, attrs)
        return [np.asarray(getattr(xs[0].reshape(shape), reduction)(axis=axes))]

    def decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
        shape, axes = _windows(ins[0].shape, attrs)
        return [b.op(reduction, b.reshape(ins[0], shape=shape), axes=axes, keepdims=False)]

    return Op(f"{name}(x; size)", doc, _pool_infer, evaluate, flops=1, decompose=decompose)


MODES = ("area", "bilinear", "aligned", "antialiased", "bicubic")
"""How `resize` makes elements of others."""

CUBIC = -0.75
"""The free coefficient of the cubic kernel (PyTorch's)."""


def resizing(old: int, new: int, mode: str) -> Array:
    """f64[new, old]: what an axis of `old` elements is multiplied by to have `new` of them.

    `area`: means of the elements that an interval overlaps; `bilinear` and `bicubic`: interpolation between two and
    four, whose positions are aligned at the ends of the axis, the elements at its ends repeated; `aligned`: bilinear,
    the first and last element stay where they are; `antialiased`: bilinear between more of them if they become fewer,
    none beyond the ends (as torch.nn.functional.interpolate does each).
    """
    if mode == "antialiased":
        places = (np.arange(new) + 0.5) * old / new - 0.5
        weights = np.maximum(1 - np.abs(places[:, None] - np.arange(old)) / max(old / new, 1.0), 0.0)
        return weights / weights.sum(1, keepdims=True)  # type: ignore[no-any-return]
    reach, weight = (2, _cubic) if mode == "bicubic" else (1, _linear)
    matrix = np.zeros((new, old))
    for i in range(new):
        if mode == "area":
            first, last = i * old // new, -(-(i + 1) * old // new)
            matrix[i, first:last] = 1 / (last - first)
            continue
        place = i * (old - 1) / max(new - 1, 1) if mode == "aligned" else (i + 0.5) * old / new - 0.5
        for k in range(int(np.floor(place)) - reach + 1, int(np.floor(place)) + reach + 1):
            matrix[i, min(max(k, 0), old - 1)] += weight(abs(place - k))
    return matrix


def _linear(d: float) -> float:
    """Weight of an element at distance d."""
    return max(1 - d, 0.0)


def _cubic(d: float) -> float:
    """Weight of an element at distance d (Keys 1981)."""
    if d <= 1:
        return (CUBIC + 2) * d**3 - (CUBIC + 3) * d**2 + 1
    return CUBIC * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def _resize_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = floats(ins, attrs)
    need(x.rank == 4, "takes [B, C, H, W], got {}", x)
    need(attrs["mode"] in MODES, "mode is {!r}; wants one of {}", attrs["mode"], ", ".join(MODES))
    return [x.with_shape([*x.shape[:2], *factors_of("size", attrs, 2)])]


def _resize(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    (x,) = xs
    sizes = zip(x.shape[2:], factors_of("size", attrs, 2), strict=True)
    rows, columns = (resizing(old, int(new), attrs["mode"]).astype(x.dtype) for old, new in sizes)
    return [rows @ x @ columns.T]


def _resize_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,) = ins
    for axis, new in zip((2, 3), factors_of("size", attrs, 2), strict=True):
        matrix = resizing(int(x.shape[axis]), int(new), attrs["mode"])
        if axis == 3:
            x = b.matmul(x, b.constant(matrix.T, x.type.dtype))
        else:
            x = b.matmul(b.constant(matrix, x.type.dtype), x)
    return [x]


def _reflect_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = numbers(ins, attrs)
    space: list[Any] = list(x.shape[2:])
    sizes = per_axis("size", attrs["size"], _space(x))
    for n, size in zip(space, sizes, strict=True):
        need(0 <= size < n, "cannot mirror {} elements of {}", size, x)
    return [x.with_shape([*x.shape[:2], *(n + 2 * size for n, size in zip(space, sizes, strict=True))])]


def _reflect(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    sizes = per_axis("size", attrs["size"], xs[0].ndim - 2)
    return [np.pad(xs[0], [(0, 0), (0, 0), *((size, size) for size in sizes)], "reflect")]


def _reflect_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,) = ins
    for axis, size in enumerate(per_axis("size", attrs["size"], x.type.rank - 2), 2):
        index = np.pad(np.arange(int(x.shape[axis])), int(size), "reflect")
        x = b.take(x, b.constant(index), axis=axis)
    return [x]


_ROWS = [
    Op(
        "reflect_pad(x; size)",
        "x with `size` more elements at both ends of every spatial axis, which mirror those inside",
        _reflect_infer,
        _reflect,
        decompose=_reflect_decompose,
        sugar=True,
    ),
    Op(
        "resize(x; size, mode)",
        "x [B, C, H, W] with `size` rows and columns, by means over areas, bilinear, bilinear with aligned corners, "
        "antialiased bilinear or bicubic interpolation (`mode`)",
        _resize_infer,
        _resize,
        decompose=_resize_decompose,
        source="Keys 1981",
        sugar=True,
    ),
    Op(
        "upsample_nearest(x; factor)",
        "x with each element repeated `factor` times along every spatial axis",
        _upsample_infer,
        _upsample,
        flops=0,
        decompose=_upsample_decompose,
    ),
    _pool_row("avg_pool", "mean", "mean of each window of `size` elements along every spatial axis; windows tile x"),
    _pool_row("max_pool", "max", "maximum of each window of `size` elements along every spatial axis; windows tile x"),
]
OPS = {row.name: row for row in _ROWS}
