"""Tensors that the authors' code requires and no network here has, because they follow from sizes: masks, constants.

An `ignore` rule with `fill` writes one, either by a formula of its indices or from computed buffers of the network:

    {value: 1, shape: [16, 4]}                     one number everywhere
    {value: "j <= i", shape: [n, n], dtype: bool}  a formula of the indices i, j, k, … of the axes
    {buffers: [rows, columns], shape: [1, -1, d]}  the sum of computed buffers, broadcast and reshaped

With `write`, which names another tensor of theirs, `axis[i]` is a size of that tensor.

Computed buffers that a network here has under the same name need none: `export_weights` writes them.
"""

from __future__ import annotations

import ast
import math
import operator
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from latentc.diagnostics import nearest
from latentc.weights.expr import Array, Expr, dtype_from_name
from latentc.weights.read import materialise
from latentc.weights.templates import AnySizes, Sizes, whole, whole_list

Numbers = np.ndarray[Any, Any]
Made = Callable[[Mapping[str, Expr], tuple[int, ...] | None], Array | None]
"""Makes a tensor, given the network's computed buffers and the shape of the tensor that `write` names, if any.

None if the network lacks a buffer that it needs. Raises ValueError.
"""

_MOST_ELEMENTS = 1 << 28
_LONGEST = 200  # characters of a formula
_INDICES = "ijklmn"  # of the axes
_CONSTANTS = {"inf": math.inf, "pi": math.pi}
_FUNCTIONS: dict[str, np.ufunc] = {
    **{"sqrt": np.sqrt, "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos},
    **{"min": np.minimum, "max": np.maximum},
}
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}


def parse_fill(raw: Any, sizes: Sizes, beside: bool = False) -> Made:
    """The recipe of a rule's `fill`; `beside` another tensor, its shape is known. Raises ValueError."""
    kinds = ("value", "buffers")
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError(f"`fill` is a mapping such as {{value: 0, shape: [1]}}, not {raw!r}")
    kind = next((key for key in kinds if key in raw), None)
    if kind is None:
        near = nearest(str(next(iter(raw))), kinds)
        raise ValueError("`fill` needs `value` or `buffers`" + (f"; did you mean {near!r}?" if near else ""))
    for key in raw:
        if key not in (kind, "shape", "dtype"):
            raise ValueError(f"`fill` by {kind} takes no {key!r}")
    if "shape" not in raw:
        raise ValueError("`fill` needs the `shape` of the tensor, such as [1]")
    dtype = dtype_from_name(raw.get("dtype", "f32"))
    names, formula = _names(raw["buffers"]) if kind == "buffers" else (), _parsed(raw.get("value", 0))
    known = _with_axes(sizes, (1,) * 8 if beside else None)
    least = 0 if kind == "value" else -1  # -1: whatever is left when buffers are reshaped
    shape = _shape(raw["shape"], known, None if beside else least)
    if kind == "value":
        corners = [1] * len(shape) if isinstance(sizes, AnySizes) else shape  # unknown before the network is
        _evaluated(formula, [np.unique([0, max(0, size - 1)]) for size in corners], known)

    def made(buffers: Mapping[str, Expr], other: tuple[int, ...] | None) -> Array | None:
        known = _with_axes(sizes, other)
        shape = _shape(raw["shape"], known, least)
        if kind == "value":
            found = _evaluated(formula, [np.arange(size) for size in shape], known)
            if dtype.kind in "iu" and np.isinf(found).any():
                raise ValueError(f"`fill` by {ast.unparse(formula)!r} is not finite, as {dtype} must be")
            return Array(found.astype(dtype))
        if any(name not in buffers for name in names):
            return None
        parts = [materialise(buffers[name]).astype(np.float64) for name in names]
        return Array(sum(parts[1:], start=parts[0]).reshape(shape).astype(dtype))

    return made


def _with_axes(sizes: Sizes, shape: tuple[int, ...] | None) -> Sizes:
    return sizes if shape is None or isinstance(sizes, AnySizes) else ChainMap({"axis": shape}, sizes)  # type: ignore[arg-type]


def _shape(raw: Any, sizes: Sizes, least: int | None) -> list[int]:
    shape = whole_list(raw, sizes)
    if least is not None and not isinstance(sizes, AnySizes) and min(shape, default=0) < least:
        raise ValueError(f"`fill` has the shape {shape}, but sizes are at least {least}")
    if len(shape) > len(_INDICES):
        raise ValueError(f"`fill` has at most {len(_INDICES)} axes")
    if not isinstance(sizes, AnySizes) and math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"`fill` of {math.prod(shape)} numbers is more than {_MOST_ELEMENTS}")
    return shape


def _names(names: Any) -> Sequence[str]:
    if not isinstance(names, Sequence) or isinstance(names, str) or not names or {*map(type, names)} != {str}:
        raise ValueError("`buffers` must list computed buffers of the network, such as [pos_embed]")
    return names


def _parsed(value: Any) -> ast.AST:
    if value != value:
        raise ValueError("`fill` has the value nan, which is not a number")
    text = str(value)
    if len(text) > _LONGEST:
        raise ValueError(f"a formula of {len(text)} characters; at most {_LONGEST} are allowed")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"`fill` cannot read the formula {text!r}") from error


def _evaluated(formula: ast.AST, axes: Sequence[Numbers], sizes: Sizes) -> Numbers:
    """The formula at these indices of each axis, in float64. ValueError for unknown names, and for no numbers."""
    grid = np.meshgrid(*(axis.astype(np.float64) for axis in axes), indexing="ij", sparse=True)
    with np.errstate(all="ignore"):
        values = _numbers(formula, dict(zip(_INDICES, grid, strict=False)), sizes)
    found = np.broadcast_to(values, [axis.size for axis in axes])
    if np.isnan(found).any():
        raise ValueError(f"`fill` by {ast.unparse(formula)!r} is not a number everywhere")
    return found


def _numbers(node: ast.AST, indices: Mapping[str, Numbers], sizes: Sizes) -> Any:
    """float64 throughout: no formula can grow beyond its shape or take long."""

    def at(part: ast.AST) -> Any:
        return _numbers(part, indices, sizes)

    match node:
        case ast.Constant(value=value) if isinstance(value, int | float):
            return np.float64(value)
        case ast.Name(id=name) if name in indices or name in _CONSTANTS:
            return indices[name] if name in indices else np.float64(_CONSTANTS[name])
        case ast.Name(id=name):
            size = sizes.get(name)
            if size is None or isinstance(size, tuple):
                near = nearest(name, [*indices, *sizes])
                mend = f"; did you mean {near!r}?" if near else ""
                raise ValueError(f"no number is named {name!r}" + mend)
            return np.float64(size)
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            if isinstance(sizes, AnySizes):
                return at(index)
            numbers = sizes.get(name)
            if not isinstance(numbers, tuple) or not numbers:
                raise ValueError(f"no list of numbers is named {name!r}")
            place = np.asarray(at(index)).astype(np.int64)
            if (outside := place[(place < 0) | (place >= len(numbers))]).size:
                raise ValueError(f"`fill` reads {name}[{outside[0]}], but {name} has {len(numbers)} numbers")
            return np.asarray(numbers, np.float64)[place]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](at(left), at(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            return np.asarray(_OPERATORS[type(op)](at(left), at(right)), np.float64)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -at(operand)
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            return np.where(at(test), at(body), at(otherwise))
        case ast.Call(func=ast.Name(id="len"), args=[ast.Name()], keywords=[]):
            return np.float64(whole(ast.unparse(node), sizes))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            function = _FUNCTIONS[name]
            if len(arguments) != function.nin:
                raise ValueError(f"{name} takes {function.nin} arguments, not {len(arguments)}")
            return function(*map(at, arguments))
    raise ValueError(
        "a formula has only numbers, sizes, indices, inf, pi, + - * / // % **, comparisons, `a if c else b` and "
        f"{', '.join((*_FUNCTIONS, 'len'))}"
    )
