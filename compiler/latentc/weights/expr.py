"""Lazy weight expressions: tensors as ranges of files and rearrangements of them.

An expression costs nothing until it is read. The lower-case constructors (`transpose`, `reshape`, `slice_axis`,
`concatenate`, `cast`) simplify: a rearrangement that is a plain file range is a `Stored`, and an operation followed by
its inverse is the original tensor. Elements are in C order and little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from latentc.weights.nibbles import FOUR_BITS

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "bool": np.bool_,
        "u8": np.uint8,
        "i8": np.int8,
        "u16": np.uint16,
        "i16": np.int16,
        "u32": np.uint32,
        "i32": np.int32,
        "u64": np.uint64,
        "i64": np.int64,
        "f16": np.float16,
        "bf16": ml_dtypes.bfloat16,
        "f32": np.float32,
        "f64": np.float64,
        "f8e4m3": ml_dtypes.float8_e4m3fn,
        "i4": ml_dtypes.int4,
        "f4e2m1": ml_dtypes.float4_e2m1fn,
        "f8e5m2": ml_dtypes.float8_e5m2,
        "f8e8m0": ml_dtypes.float8_e8m0fnu,
        "c64": np.complex64,
    }.items()
}
DTYPE_OF_TORCH = {dtype.name: name for name, dtype in DTYPES.items() if name not in FOUR_BITS}
"""torch's names of dtypes, which are numpy's, to latentc's."""

_EXACT = {("f16", "f32"), ("bf16", "f32"), ("f16", "f64"), ("bf16", "f64"), ("f32", "f64")}  # lossless casts
_FLOATS = frozenset(DTYPES[name] for name in ("f16", "bf16", "f32", "f64", "f8e4m3", "f8e5m2"))


def dtype_from_name(name: Any) -> np.dtype[Any]:
    """The dtype of an IR name (`f32`, `bf16`, …) or of what `np.dtype` takes; ValueError otherwise."""
    if isinstance(name, str) and name in DTYPES:
        return DTYPES[name]
    try:
        found: np.dtype[Any] = np.dtype(name)
        return found
    except TypeError as error:
        raise ValueError(f"{name!r} is not a dtype") from error


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The short name of a dtype (`f32`), or numpy's if it has none."""
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for real floating-point types; numpy's own test misses bf16 and fp8."""
    return dtype in _FLOATS


@dataclass(frozen=True)
class Stored:
    """`shape` elements of `dtype`, stored in C order in `file` from byte `offset` on."""

    file: Path
    offset: int
    nbytes: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.nbytes != math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"{self.nbytes} bytes are not {self.shape} of {self.dtype}")


@dataclass(frozen=True, eq=False)
class Array:
    """A tensor in memory, not copied; compared by identity."""

    array: np.ndarray

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(frozen=True)
class _Rearranged:
    """The elements of `inner`, or some of them, in another order or shape."""

    inner: Expr

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype


@dataclass(frozen=True)
class Transpose(_Rearranged):
    """Axis i of the result is axis `perm[i]` of `inner`."""

    perm: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.inner.shape[axis] for axis in self.perm)


@dataclass(frozen=True)
class Reshape(_Rearranged):
    """The same elements in the same C order under another shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Slice(_Rearranged):
    """Indices `start` to `stop - 1` of one axis."""

    axis: int
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.inner.shape[: self.axis], self.stop - self.start, *self.inner.shape[self.axis + 1 :])


@dataclass(frozen=True)
class Concatenate:
    """Parts of one dtype joined along `axis`."""

    parts: tuple[Expr, ...]
    axis: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (*first[: self.axis], sum(p.shape[self.axis] for p in self.parts), *first[self.axis + 1 :])


@dataclass(frozen=True)
class Cast:
    """The nearest values in another dtype."""

    inner: Expr
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape


@dataclass(frozen=True, eq=False)
class Computed:
    """The result of a function of arrays; every part is whole in memory while it runs."""

    parts: tuple[Expr, ...]
    compute: Callable[[list[np.ndarray]], np.ndarray]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


Expr: TypeAlias = Stored | Array | Transpose | Reshape | Slice | Concatenate | Cast | Computed


def transpose(expr: Expr, perm: Sequence[int]) -> Expr:
    """Reorder the axes as numpy.transpose does; ValueError unless `perm` is a permutation of them."""
    perm = tuple(int(axis) for axis in perm)
    if sorted(perm) != list(range(len(expr.shape))):
        raise ValueError(f"perm {list(perm)} is not a permutation of the axes of {list(expr.shape)}")
    if perm == tuple(range(len(perm))):
        return expr
    if isinstance(expr, Cast):
        return cast(transpose(expr.inner, perm), expr.dtype)
    if isinstance(expr, Transpose):
        return transpose(expr.inner, [expr.perm[axis] for axis in perm])
    return Transpose(expr, perm)


def reshape(expr: Expr, shape: Sequence[int]) -> Expr:
    """Reshape in C order; one entry may be -1. ValueError if the number of elements differs."""
    shape, size = tuple(int(n) for n in shape), math.prod(expr.shape)
    if shape.count(-1) == 1 and all(n > 0 for n in shape if n != -1):
        rest = math.prod(n for n in shape if n != -1)
        if size % rest == 0:
            shape = tuple(size // rest if n == -1 else n for n in shape)
    if min(shape, default=0) < 0 or math.prod(shape) != size:
        raise ValueError(f"{list(expr.shape)} ({size} elements) cannot be reshaped to {list(shape)}")
    if shape == expr.shape:
        return expr
    if isinstance(expr, Cast):
        return cast(reshape(expr.inner, shape), expr.dtype)
    if isinstance(expr, Reshape):
        return reshape(expr.inner, shape)
    if isinstance(expr, Stored):
        return Stored(expr.file, expr.offset, expr.nbytes, expr.dtype, shape)
    return Reshape(expr, shape)


def slice_axis(expr: Expr, axis: int, start: int, stop: int) -> Expr:
    """`expr[..., start:stop, ...]` on one axis; ValueError if the range is not inside it."""
    axis = _axis(expr, axis)
    if not 0 <= start <= stop <= expr.shape[axis]:
        raise ValueError(f"{start}:{stop} is outside axis {axis} of {list(expr.shape)}")
    if (start, stop) == (0, expr.shape[axis]):
        return expr
    if isinstance(expr, Cast):
        return cast(slice_axis(expr.inner, axis, start, stop), expr.dtype)
    if isinstance(expr, Slice) and expr.axis == axis:
        return slice_axis(expr.inner, axis, expr.start + start, expr.start + stop)
    if isinstance(expr, Concatenate) and expr.axis == axis:
        low = 0
        for part in expr.parts:
            if low <= start and stop <= low + part.shape[axis]:
                return slice_axis(part, axis, start - low, stop - low)
            low += part.shape[axis]
    if isinstance(expr, Stored) and math.prod(expr.shape[:axis]) == 1:
        shape = (*expr.shape[:axis], stop - start, *expr.shape[axis + 1 :])
        row = math.prod(expr.shape[axis + 1 :]) * expr.dtype.itemsize
        return Stored(expr.file, expr.offset + start * row, (stop - start) * row, expr.dtype, shape)
    return Slice(expr, axis, start, stop)


def concatenate(parts: Sequence[Expr], axis: int) -> Expr:
    """Join along an axis; ValueError unless the parts agree in dtype and in all other axes."""
    if not parts:
        raise ValueError("nothing to concatenate")
    axis = _axis(parts[0], axis)
    joined: list[Expr] = []
    for part in parts:
        if part.dtype != parts[0].dtype:
            raise ValueError(f"cannot concatenate {dtype_name(parts[0].dtype)} and {dtype_name(part.dtype)}")
        if _without(part.shape, axis) != _without(parts[0].shape, axis):
            raise ValueError(f"cannot concatenate {list(parts[0].shape)} and {list(part.shape)} along axis {axis}")
        if part.shape[axis] == 0:
            continue
        for piece in part.parts if isinstance(part, Concatenate) and part.axis == axis else (part,):
            merged = _adjacent(joined[-1], piece, axis) if joined else None
            if merged is not None:
                joined[-1] = merged
            else:
                joined.append(piece)
    if not joined:
        return parts[0]
    return joined[0] if len(joined) == 1 else Concatenate(tuple(joined), axis)


def cast(expr: Expr, dtype: Any) -> Expr:
    """Convert to another dtype, rounding to nearest even; an inner lossless cast is skipped."""
    dtype = dtype_from_name(dtype)
    if isinstance(expr, Cast) and (dtype_name(expr.inner.dtype), dtype_name(expr.dtype)) in _EXACT:
        return cast(expr.inner, dtype)
    return expr if dtype == expr.dtype else Cast(expr, dtype)


def split(expr: Expr, sizes: Sequence[int], axis: int) -> list[Expr]:
    """Cut an axis into consecutive parts of these sizes; ValueError unless they fill it."""
    axis = _axis(expr, axis)
    if sum(sizes) != expr.shape[axis] or min(sizes, default=0) < 0:
        raise ValueError(f"sizes {list(sizes)} do not fill axis {axis} of {list(expr.shape)}")
    ends = np.cumsum([0, *sizes]).tolist()
    return [slice_axis(expr, axis, low, high) for low, high in pairwise(ends)]


def permute_heads(expr: Expr, head_size: int, heads: int | None, to: str) -> Expr:
    """Reorder rows within each head between the two rotary layouts.

    Interleaved keeps the pair of one frequency in rows (2i, 2i+1) of a head, half in (i, i + head_size/2).
    Only the first `heads` heads of axis 0 are permuted (all if None), so the value rows of a fused
    query-key-value weight can stay as they are. `to` is "half" or "interleaved"; ValueError if sizes do not divide.
    Rotary embedding: Su et al., RoFormer, equation 34 (interleaved).
    """
    if not expr.shape or head_size <= 0 or head_size % 2 or expr.shape[0] % head_size:
        raise ValueError(f"head size {head_size} is not even or does not divide axis 0 of {list(expr.shape)}")
    heads = expr.shape[0] // head_size if heads is None else heads
    if not 0 <= heads * head_size <= expr.shape[0]:
        raise ValueError(f"{heads} heads of {head_size} are more than axis 0 of {list(expr.shape)} holds")
    head, rest = split(expr, [heads * head_size, expr.shape[0] - heads * head_size], 0)
    pairs = (head_size // 2, 2) if to == "half" else (2, head_size // 2)
    tail = expr.shape[1:]
    paired = transpose(reshape(head, (heads, *pairs, *tail)), (0, 2, 1, *range(3, 3 + len(tail))))
    permuted = reshape(paired, head.shape)
    return concatenate([permuted, rest], 0) if rest.shape[0] else permuted


def by_path(weights: Mapping[str, Mapping[str, Expr]]) -> dict[str, Expr]:
    """Weights of networks by whole path, `main.blocks.0.…`."""
    return {f"{network}.{path}": expr for network, own in weights.items() for path, expr in own.items()}


def _axis(expr: Expr, axis: int) -> int:
    if not -len(expr.shape) <= axis < len(expr.shape):
        raise ValueError(f"axis {axis} is outside {list(expr.shape)}")
    return axis % len(expr.shape)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _adjacent(left: Expr, right: Expr, axis: int) -> Expr | None:
    """One expression for two adjacent parts, else None."""
    if isinstance(left, Slice) and isinstance(right, Slice) and left.inner == right.inner:
        if left.axis == right.axis == axis and left.stop == right.start:
            return slice_axis(left.inner, axis, left.start, right.stop)
    elif isinstance(left, Stored) and isinstance(right, Stored) and math.prod(left.shape[:axis]) == 1:
        if left.file == right.file and left.offset + left.nbytes == right.offset:
            shape = (*left.shape[:axis], left.shape[axis] + right.shape[axis], *left.shape[axis + 1 :])
            return Stored(left.file, left.offset, left.nbytes + right.nbytes, left.dtype, shape)
    elif isinstance(left, Cast) and isinstance(right, Cast) and left.inner.dtype == right.inner.dtype:
        inner = _adjacent(left.inner, right.inner, axis)
        return None if inner is None else Cast(inner, left.dtype)
    return None
