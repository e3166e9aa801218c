"""Tensor types: a dtype and dimensions that remember how they were written.

A dimension is a plain `int`, a `Named` int (a value with the expression it came from, such as `4 * dim`), or a `Sym`, a
multiple of a run-time size (`B`, `2*B`). Names do not matter for equality; emitted code and its shape comments are
written with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

FLOATS = {"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
INTEGERS = {"i64": np.int64, "i32": np.int32, "i8": np.int8, "u8": np.uint8}
# Only used with a scale, as i8 and u8 can be; f8e8m0 (powers of two) only as a scale.
QUANTISED = {
    "f8e4m3": ml_dtypes.float8_e4m3fn,
    "i4": ml_dtypes.int4,
    "f4e2m1": ml_dtypes.float4_e2m1fn,
    "f8e8m0": ml_dtypes.float8_e8m0fnu,
}
NUMPY: dict[str, Any] = {**FLOATS, **INTEGERS, **QUANTISED, "bool": np.bool_}


_EXPRESSION = re.compile(r"[\w.()+*/% -]+")  # what the text form can represent
_PLUS = re.compile(r"(.+) ([+-]) (\d+)")
_TIMES = re.compile(r"(\d+) \* (\w+)|(\w+) \* (\d+)")
_OVER = re.compile(r"(\w+) // (\d+)")


class Named(int):
    """An int that carries the expression it was computed with; equal to and hashed as its value.

    `Named(size, "T")` of a size that is Named itself is an abbreviation, and `meaning` is the expression of that size.
    Arithmetic folds constants, so that `(H + 2 - 3) + 1` is `H`, and so is `n + (H - n)`.
    """

    expr: str
    meaning: str

    def __new__(cls, value: int, expr: str, meaning: str = "") -> Named:
        if not _EXPRESSION.fullmatch(expr):
            raise ValueError(f"{expr!r} is not an expression of sizes")
        self = super().__new__(cls, value)
        self.expr = expr
        self.meaning = meaning or (value.meaning or value.expr if isinstance(value, Named) else "")
        return self

    def __reduce__(self) -> Any:
        return Named, (int(self), self.expr, self.meaning)

    def __repr__(self) -> str:
        return f"{self.expr}{f':{self.meaning}' if self.meaning else ''}={int(self)}"

    def __add__(self, other: Any) -> Any:
        return _sum(self, other, 1) if _whole(other) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        if not _whole(other):
            return NotImplemented
        if _PLUS.fullmatch(self.expr):
            return self + other
        return self if other == 0 else Named(int(other) + int(self), f"{int(other)} + {self.expr}")

    def __sub__(self, other: Any) -> Any:
        return _sum(self, other, -1) if _whole(other) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return Named(int(other) - int(self), f"{int(other)} - {_atom(self)}") if _whole(other) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Sym):
            return other * self
        return _product(self, other) if _whole(other) else NotImplemented

    def __rmul__(self, other: Any) -> Any:
        return _product(other, self) if _whole(other) else NotImplemented

    def __floordiv__(self, other: Any) -> Any:
        if not _whole(other):
            return NotImplemented
        if not isinstance(other, Named):
            if other == 1:
                return self
            if before := _OVER.fullmatch(self.expr):
                return Named(int(self) // other, f"{before[1]} // {int(before[2]) * other}")
        return Named(int(self) // int(other), f"{_atom(self)} // {_atom(other)}")

    def __rfloordiv__(self, other: Any) -> Any:
        return Named(int(other) // int(self), f"{int(other)} // {_atom(self)}") if _whole(other) else NotImplemented

    def __pow__(self, other: Any, mod: Any = None) -> Any:
        if not _whole(other) or mod is not None:
            return NotImplemented
        return Named(int(self) ** int(other), f"{_atom(self)} ** {_atom(other)}")

    def __rpow__(self, other: Any, mod: Any = None) -> Any:
        if not _whole(other) or mod is not None:
            return NotImplemented
        return Named(int(other) ** int(self), f"{int(other)} ** {_atom(self)}")

    def __mod__(self, other: Any) -> Any:
        return Named(int(self) % int(other), f"{_atom(self)} % {_atom(other)}") if _whole(other) else NotImplemented

    def __neg__(self) -> Any:
        return Named(-int(self), f"-{_atom(self)}")


def _sum(a: Named, b: int, sign: int) -> Named:
    value = int(a) + sign * int(b)
    if isinstance(b, Named):
        one, other = _multiple(a), _multiple(b)
        if one and other and one[1] == other[1] and one[0] + sign * other[0] > 0:
            return Named(value, f"{one[0] + sign * other[0]} * {one[1]}" if one[0] + sign * other[0] > 1 else one[1])
        for part, whole in ((a, b), (b, a)):  # n + (T - n)
            left = whole.expr.removesuffix(f" - {_atom(part)}")
            if sign > 0 and left != whole.expr and _closed(left):
                return Named(value, left)
        return Named(value, f"{a.expr} {'+' if sign > 0 else '-'} {b.expr if sign > 0 else _atom(b)}")
    before = _PLUS.fullmatch(a.expr)
    head, constant = (before[1], int(before[2] + before[3])) if before and _closed(before[1]) else (a.expr, 0)
    constant += sign * int(b)
    if constant == 0:
        return Named(value, head, a.meaning if head == a.expr else "")
    return Named(value, f"{head} {'+' if constant > 0 else '-'} {abs(constant)}")


def _multiple(size: Named) -> tuple[int, str] | None:
    """`3 * width` as (3, width)."""
    if size.expr.isidentifier():
        return 1, size.expr
    found = _TIMES.fullmatch(size.expr)
    return (int(found[1] or found[4]), found[2] or found[3]) if found else None


def _product(a: int, b: int) -> Named:
    value = int(a) * int(b)
    for one, factor, first in ((a, b, False), (b, a, True)):
        if isinstance(one, Named) and not isinstance(factor, Named):
            if factor == 1:
                return one
            if before := _TIMES.fullmatch(one.expr):
                total, name = int(before[1] or before[4]) * int(factor), before[2] or before[3]
                return Named(value, f"{total} * {name}" if before[1] or first else f"{name} * {total}")
    return Named(value, f"{_atom(a)} * {_atom(b)}")


def _closed(text: str) -> bool:
    """True if the brackets of a text balance."""
    return text.count("(") == text.count(")")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def source_of(value: int) -> str:
    """The expression of a dimension or static argument; its digits if it has none."""
    return value.expr if isinstance(value, Named) else str(value)


def _atom(value: int) -> str:
    text = source_of(value)
    return text if re.fullmatch(r"[\w.]+", text) else f"({text})"


@dataclass(frozen=True, slots=True)
class Sym:
    """A run-time size times a constant: `B`, `2*B`."""

    name: str
    factor: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Z]\w*", self.name) or self.factor < 1:
            raise ValueError(
                f"{self.factor}*{self.name} is not a run-time size: wants a capital letter and a positive factor"
            )

    def __mul__(self, other: int) -> Sym:
        return Sym(self.name, self.factor * int(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> Sym:
        if self.factor % int(other):
            raise TypeError(f"{self} does not divide by {other}")
        return Sym(self.name, self.factor // int(other))

    def __str__(self) -> str:
        return self.name if self.factor == 1 else f"{self.factor}*{self.name}"

    __repr__ = __str__


Dim: TypeAlias = "int | Sym"
B = Sym("B")


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype (a key of `NUMPY`) and shape."""

    dtype: str
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def with_shape(self, shape: Iterable[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_axis(self, axis: int, *sizes: Dim) -> TensorType:
        """The type with `sizes`, of which there may be none or several, in place of an axis, counted from 0."""
        return self.with_shape([*self.shape[:axis], *sizes, *self.shape[axis + 1 :]])

    def with_dtype(self, dtype: str) -> TensorType:
        return TensorType(dtype, self.shape)

    def count(self) -> int:
        """Number of elements, a run-time size counted as 1 (so: per sample)."""
        return math.prod([d.factor if isinstance(d, Sym) else int(d) for d in self.shape])

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(repr, self.shape))}]"


def f32(*shape: Dim) -> TensorType:
    return TensorType("f32", shape)


def i64(*shape: Dim) -> TensorType:
    return TensorType("i64", shape)


def product(dims: Iterable[Dim]) -> Dim:
    """Product of dimensions; at most one may be symbolic. Raises TypeError otherwise."""
    total, size = 1, None
    for dim in dims:
        if not isinstance(dim, Sym):
            total = dim if total == 1 else total * dim
        elif size is None:
            size = dim
        else:
            raise TypeError(f"cannot multiply run-time sizes {size} and {dim}")
    return total if size is None else size * total


def substitute(type: TensorType, sizes: Mapping[str, Dim]) -> TensorType:
    """Replaces run-time sizes by name: {"B": 2*B}."""
    if not any(isinstance(d, Sym) for d in type.shape):
        return type
    return type.with_shape(
        d if not isinstance(d, Sym) or d.name not in sizes else sizes[d.name] * d.factor for d in type.shape
    )


def unify(formal: TensorType, actual: TensorType, sizes: dict[str, Dim]) -> bool:
    """True if `actual` equals `formal` for some values of its run-time sizes, which are added to `sizes`."""
    if formal.dtype != actual.dtype or formal.rank != actual.rank:
        return False
    for f, a in zip(formal.shape, actual.shape, strict=True):
        if not isinstance(f, Sym):
            if f != a:
                return False
            continue
        if isinstance(a, Sym):
            if a.factor % f.factor:
                return False
            size: Dim = Sym(a.name, a.factor // f.factor)
        else:
            if a % f.factor:
                return False
            size = a // f.factor
        if sizes.setdefault(f.name, size) != size:
            return False
    return True
