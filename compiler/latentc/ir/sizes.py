"""Sizes across calls: translates operand dimensions into the callee's symbols, and result dimensions back.

The symbols of a function are its static arguments, and labels such as `T` or `H` for dimensions that no argument gives.
They are matched by their expressions, never by value: two sizes that happen to be equal stay different.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from latentc.ir.core import Function, Value
from latentc.ir.types import Dim, Named, Sym, TensorType

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
}
# Default labels of dimensions by rank.
_LABELS = {1: "N", 2: "ND", 3: "NTD", 4: "NCHW", 5: "NCTHW"}


def is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def evaluate(expr: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression of sizes. Raises KeyError for unknown names and other syntax."""

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id=name):
                return names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
        raise KeyError(expr)

    try:
        return value(_parsed(expr))
    except (SyntaxError, ZeroDivisionError, ValueError, RecursionError):
        raise KeyError(expr) from None


@lru_cache(maxsize=4096)
def _parsed(expr: str) -> ast.expr:
    """The tree of an expression: the sizes of a network are written in few ways, and read at every call."""
    return ast.parse(expr, mode="eval").body


def is_label(name: str) -> bool:
    """True if a name is the label of a dimension (`T`), not a static argument."""
    return name.isidentifier() and name.isupper()


def in_callee(
    types: Sequence[TensorType],
    static: Mapping[str, Any],
    given: Mapping[str, Any],
    declared: Sequence[str | None],
) -> list[TensorType]:
    """Operand types in a callee's symbols. Raises ValueError if an operand has not its declared shape.

    A dimension gets the name that its operand's declaration (`"B channels H W"`) says; else that of the first of the
    arguments `static` that was `given` as the same expression; else a label. Sizes of 1 stay, as they broadcast.
    """
    arguments: dict[str, Named] = {}
    for name, value in given.items():
        if isinstance(value, Named):
            arguments.setdefault(value.expr, static[name])
    labels: dict[Any, Named] = {}  # (expression, axis from the end) -> label
    taken: dict[str, int] = {}

    def label(word: str, size: int, key: Any) -> Named:
        name, n = word, 1
        while taken.get(name, size) != size or (name in taken and key is not None):
            n += 1
            name = f"{word}{n}"
        taken[name] = size
        return labels.setdefault(key, Named(size, name)) if key is not None else Named(size, name)

    def renamed(dim: Dim, place: int, rank: int, word: str) -> Dim:
        if isinstance(dim, Sym):
            return dim
        if word and not is_label(word):
            name, _, expr = word.rpartition("=")
            try:
                size = evaluate(expr, static)
            except KeyError:
                known = ", ".join(static) or "none"
                message = f"`{expr}` is not an expression of the static arguments ({known})"
                raise ValueError(f"{message}; write labels of other sizes in capitals") from None
            if size != dim:
                raise ValueError(f"an axis of {int(dim)} is declared {expr} = {int(size)}")
            return Named(size, name) if name else size
        if word:
            return label(word, int(dim), None)
        if isinstance(dim, Named):
            if dim.expr in arguments:
                return arguments[dim.expr]
            key = dim.expr if is_label(dim.expr) else (dim.expr, place - rank)
            if key in labels:
                return labels[key]
            return label(dim.expr if is_label(dim.expr) else _LABELS.get(rank, "N" * rank)[place], int(dim), key)
        return dim if dim == 1 else label(_LABELS.get(rank, "N" * rank)[place], int(dim), object())

    found = []
    for type, shape in zip(types, declared, strict=True):
        words = shape.split() if shape else [""] * type.rank
        if len(words) != type.rank:
            raise ValueError(f"{type} is declared [{shape}]")
        found.append(type.with_shape(renamed(d, i, type.rank, words[i]) for i, d in enumerate(type.shape)))
    return found


def in_caller(
    types: Sequence[TensorType], fn: Function, operands: Sequence[Value], args: Mapping[str, Any]
) -> list[TensorType]:
    """A callee's output types in the caller's expressions; sizes without such an expression become plain numbers."""
    known: dict[str, Dim] = {}
    for value, operand in zip(fn.inputs, operands, strict=False):
        for formal, actual in zip(value.type.shape, operand.type.shape, strict=False):
            if isinstance(formal, Named) and formal.expr.isidentifier():
                known.setdefault(formal.expr, actual)
    known |= {name: value for name, value in args.items() if is_size(value)}

    def renamed(dim: Dim) -> Dim:
        if not isinstance(dim, Named):
            return dim
        for expr in (dim.expr, dim.meaning):
            try:
                size = evaluate(expr, known)
            except (KeyError, TypeError):
                continue
            if size == dim:
                return size  # type: ignore[no-any-return]
        return int(dim)

    return [t.with_shape(renamed(d) for d in t.shape) for t in types]


def signature(types: Sequence[TensorType]) -> tuple[Any, ...]:
    """A key that differs for types whose sizes are written differently, even if they are equal."""
    return tuple((t.dtype, *(d.expr if isinstance(d, Named) else str(d) for d in t.shape)) for t in types)
