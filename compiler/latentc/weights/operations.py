"""The operations of a name map's rules, from official tensors to ours, and their inverses.

An operation maps a list of tensors to a list. Some act on each tensor (or on those that `only` lists):

    transpose: [1, 0]           as numpy.transpose
    reshape: {from: SHAPE, to: SHAPE}   official shape and ours; `to` is optional where our shape is known
    squeeze: AXES               remove axes of size 1, numbered before removal; `unsqueeze` inserts axes, numbered after
    flip: AXES                  reverse
    scale: NUMBER               multiply; `add` adds a number
    dtype: {from: i64, to: i32} not needed between floats, which are always converted
    slice: {axis, start, stop, of}      keep start to stop - 1 of `of` entries; export restores the others as `fill` (0)
    pad: {axis, before, after}  add entries of `fill` (0) at the ends of an axis; export removes them
    permute_heads: {to: half|interleaved, head_size, heads}   rows between the rotary layouts, of the first `heads`

Others change the number of tensors:

    concatenate: {axis, sizes}  join all tensors; `sizes` of the parts, by default equal
    stack: AXIS                 join along a new axis
    split: {axis, sizes|parts}  cut each tensor; by default into equal parts
    unstack: AXIS               cut each along an axis and remove the axis
    order: [2, 0, 1]            entry i is the previous index of tensor i
    weight_norm: AXIS           [g, v] to g v / |v|, the norm over all axes but this one (null: over all)

`concatenate` and `stack` work on groups of `each` tensors if given. A single option may be written without its name:
`{split: 0}` is `{split: {axis: 0}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.weights.expr import (
    Array,
    Computed,
    Expr,
    cast,
    concatenate,
    dtype_from_name,
    permute_heads,
    reshape,
    slice_axis,
    split,
    transpose,
)
from latentc.weights.templates import Sizes, number, whole, whole_list

Shape = tuple[int, ...]
Options = Mapping[str, Any]
_OPPOSITE = {"half": "interleaved", "interleaved": "half"}


@dataclass(frozen=True)
class Operation:
    """Turns each group of `size(options)` tensors into `gives(options)` tensors. `options` {name: parser}.

    A size of None means all tensors, a result of None as many as we have names. `apply` gets our shapes, if known, and
    the number of results; `undo` the number of tensors in the group.
    """

    options: Mapping[str, Callable[[Any, Sizes], Any]]
    required: frozenset[str]
    size: Callable[[Options], int | None]
    gives: Callable[[Options], int | None]
    apply: Callable[[list[Expr], Options, list[Shape] | None, int], list[Expr]]
    undo: Callable[[list[Expr], Options, int], list[Expr]]


def _each(
    options: Mapping[str, Callable[[Any, Sizes], Any]],
    required: frozenset[str],
    apply: Callable[[Expr, Options, Shape | None], Expr],
    undo: Callable[[Expr, Options], Expr],
) -> Operation:
    """An operation on each tensor, or those that `only` lists. `apply` also gets the resulting shape, if known."""
    return Operation(
        {**options, "only": whole_list},
        required,
        lambda o: 1,
        lambda o: 1,
        lambda parts, o, after, _: [apply(parts[0], o, after[0] if after else None)],
        lambda parts, o, _: [undo(parts[0], o)],
    )


# ---- one tensor


def _reshaped(expr: Expr, o: Options, after: Shape | None) -> Expr:
    shape = o.get("to", after)
    if shape is None:
        raise ValueError("reshape needs `to`: the shape is not known here")
    return reshape(expr, shape)


def _unreshaped(expr: Expr, o: Options) -> Expr:
    if "from" not in o:
        raise ValueError("reshape needs `from`: it cannot be undone without the official shape")
    return reshape(expr, o["from"])


def _squeezed(expr: Expr, o: Options) -> Expr:
    axes = {_axis(axis, len(expr.shape)) for axis in o["axes"]}
    if any(expr.shape[axis] != 1 for axis in axes):
        raise ValueError(f"axes {sorted(axes)} of {list(expr.shape)} are not all of size 1")
    return reshape(expr, [n for axis, n in enumerate(expr.shape) if axis not in axes])


def _unsqueezed(expr: Expr, o: Options) -> Expr:
    rank = len(expr.shape) + len(o["axes"])
    axes, rest = {_axis(axis, rank) for axis in o["axes"]}, iter(expr.shape)
    if len(axes) < len(o["axes"]):
        raise ValueError("the axes must differ")
    return reshape(expr, [1 if axis in axes else next(rest) for axis in range(rank)])


def _flipped(expr: Expr, o: Options) -> Expr:
    axes = tuple(_axis(axis, len(expr.shape)) for axis in o["axes"])
    return Computed((expr,), lambda xs: np.flip(xs[0], axes), expr.dtype, expr.shape)


def _in_double(expr: Expr, function: Callable[[np.ndarray], np.ndarray]) -> Expr:
    """An elementwise function, computed in float64 and rounded once."""
    return Computed((expr,), lambda xs: function(xs[0].astype(np.float64)), expr.dtype, expr.shape)


def _sliced(expr: Expr, o: Options) -> Expr:
    axis = _axis(o["axis"], len(expr.shape))
    if expr.shape[axis] != o["of"]:
        raise ValueError(f"axis {axis} of {list(expr.shape)} is not of size {o['of']}")
    return slice_axis(expr, axis, o["start"], o["stop"])


def _padded(expr: Expr, axis: int, before: int, after: int, fill: float) -> Expr:
    axis = _axis(axis, len(expr.shape))
    if min(before, after) < 0:
        raise ValueError("`before` and `after` must not be negative")

    def filled(size: int) -> Expr:
        shape = (*expr.shape[:axis], size, *expr.shape[axis + 1 :])
        return Array(np.broadcast_to(np.asarray(fill).astype(expr.dtype), shape))

    return concatenate([filled(before), expr, filled(after)], axis)


def _unpadded(expr: Expr, o: Options) -> Expr:
    size = expr.shape[_axis(o["axis"], len(expr.shape))]
    return slice_axis(expr, o["axis"], o.get("before", 0), size - o.get("after", 0))


def _cast(expr: Expr, given: Any, wanted: Any) -> Expr:
    return cast(expr, wanted) if expr.dtype == given else expr


# ---- several tensors


def _cut(expr: Expr, axis: int, sizes: Sequence[int] | None, parts: int) -> list[Expr]:
    axis = _axis(axis, len(expr.shape))
    if sizes is None:
        if expr.shape[axis] % parts:
            raise ValueError(f"axis {axis} of {list(expr.shape)} does not divide into {parts}: give `sizes`")
        sizes = [expr.shape[axis] // parts] * parts
    return split(expr, sizes, axis)


def _split(parts: list[Expr], o: Options, after: list[Shape] | None, count: int) -> list[Expr]:
    axis, sizes = o.get("axis", 0), o.get("sizes")
    if sizes is None and "parts" not in o and all(-len(shape) <= axis < len(shape) for shape in after or ()):
        sizes = [shape[axis] for shape in after or ()] or None
    return _cut(parts[0], axis, sizes, count)


def _joined(parts: list[Expr], o: Options) -> Expr:
    sizes, axis = o.get("sizes"), o.get("axis", 0)
    if sizes is None and len({part.shape for part in parts}) > 1:
        raise ValueError("the parts differ in shape: give `sizes`, or it cannot be undone")
    if sizes is not None and sizes != [part.shape[_axis(axis, len(part.shape))] for part in parts]:
        raise ValueError(f"the parts have sizes other than {sizes}")
    return concatenate(parts, axis)


def _stacked(parts: list[Expr], axis: int) -> Expr:
    axis = _axis(axis, len(parts[0].shape) + 1)
    return concatenate([reshape(part, (*part.shape[:axis], 1, *part.shape[axis:])) for part in parts], axis)


def _unstacked(expr: Expr, axis: int, parts: int) -> list[Expr]:
    axis = _axis(axis, len(expr.shape))
    cut = split(expr, [1] * parts, axis)
    return [reshape(part, (*part.shape[:axis], *part.shape[axis + 1 :])) for part in cut]


def _norm(array: np.ndarray, axis: int | None) -> np.ndarray:
    """Euclidean norms over every axis but `axis`, in float64; [1, …, n, …, 1], or [] for `axis` None."""
    squares = np.square(array.astype(np.float64))
    if axis is None:
        return np.sqrt(squares.sum())
    return np.sqrt(squares.sum(axis=tuple(a for a in range(array.ndim) if a != axis), keepdims=True))


def _weight(parts: list[Expr], o: Options) -> Expr:
    g, v = parts
    axis = None if o["axis"] is None else _axis(o["axis"], len(v.shape))
    shape = () if axis is None else tuple(n if a == axis else 1 for a, n in enumerate(v.shape))
    if g.shape != shape:
        raise ValueError(f"g is {list(g.shape)} and should be {list(shape)}")

    def folded(xs: list[np.ndarray]) -> np.ndarray:
        norm = _norm(xs[1], axis)
        weight: np.ndarray = xs[1] * np.divide(xs[0], norm, out=np.zeros(norm.shape), where=norm != 0)
        return weight

    return Computed((g, v), folded, v.dtype, v.shape)


def _norm_and_weight(weight: Expr, o: Options) -> list[Expr]:
    axis = None if o["axis"] is None else _axis(o["axis"], len(weight.shape))
    shape = () if axis is None else tuple(n if a == axis else 1 for a, n in enumerate(weight.shape))
    return [Computed((weight,), lambda xs: np.asarray(_norm(xs[0], axis)), weight.dtype, shape), weight]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for {rank} dimensions")
    return axis % rank


# ---- the table


def _rotary(text: Any, _: Sizes) -> str:
    if text not in _OPPOSITE:
        raise ValueError(f"must be half or interleaved, not {text!r}")
    return str(text)


def _permutation(value: Any, sizes: Sizes) -> list[int]:
    places = whole_list(value, sizes)
    if not isinstance(value, Sequence) or sorted(places) != list(range(len(places))):
        raise ValueError(f"{value!r} is not a permutation of 0, 1, …")
    return places


def _factor(value: Any, sizes: Sizes) -> int | float:
    if not (factor := number(value, sizes)):
        raise ValueError("0 cannot be undone")
    return factor


def _inverse(perm: Sequence[int]) -> list[int]:
    return [perm.index(place) for place in range(len(perm))]


def _or_none(value: Any, sizes: Sizes) -> int | None:
    return None if value is None else whole(value, sizes)


def _dtype(value: Any, _: Sizes) -> Any:
    return dtype_from_name(value)


_AXES = {"axes": whole_list}
OPERATIONS: dict[str, Operation] = {
    "transpose": _each(
        {"perm": _permutation},
        frozenset({"perm"}),
        lambda e, o, _: transpose(e, o["perm"]),
        lambda e, o: transpose(e, _inverse(o["perm"])),
    ),
    "reshape": _each({"from": whole_list, "to": whole_list}, frozenset(), _reshaped, _unreshaped),
    "squeeze": _each(_AXES, frozenset(_AXES), lambda e, o, _: _squeezed(e, o), _unsqueezed),
    "unsqueeze": _each(_AXES, frozenset(_AXES), lambda e, o, _: _unsqueezed(e, o), _squeezed),
    "flip": _each(_AXES, frozenset(_AXES), lambda e, o, _: _flipped(e, o), _flipped),
    "scale": _each(
        {"by": _factor},
        frozenset({"by"}),
        lambda e, o, _: _in_double(e, lambda x: x * o["by"]),
        lambda e, o: _in_double(e, lambda x: x / o["by"]),
    ),
    "add": _each(
        {"number": number},
        frozenset({"number"}),
        lambda e, o, _: _in_double(e, lambda x: x + o["number"]),
        lambda e, o: _in_double(e, lambda x: x - o["number"]),
    ),
    "dtype": _each(
        {"from": _dtype, "to": _dtype},
        frozenset({"from", "to"}),
        lambda e, o, _: _cast(e, o["from"], o["to"]),
        lambda e, o: _cast(e, o["to"], o["from"]),
    ),
    "slice": _each(
        {"axis": whole, "start": whole, "stop": whole, "of": whole, "fill": number},
        frozenset({"axis", "start", "stop", "of"}),
        lambda e, o, _: _sliced(e, o),
        lambda e, o: _padded(e, o["axis"], o["start"], o["of"] - o["stop"], o.get("fill", 0)),
    ),
    "pad": _each(
        {"axis": whole, "before": whole, "after": whole, "fill": number},
        frozenset({"axis"}),
        lambda e, o, _: _padded(e, o["axis"], o.get("before", 0), o.get("after", 0), o.get("fill", 0)),
        _unpadded,
    ),
    "permute_heads": _each(
        {"to": _rotary, "head_size": whole, "heads": whole},
        frozenset({"to", "head_size"}),
        lambda e, o, _: permute_heads(e, o["head_size"], o.get("heads"), o["to"]),
        lambda e, o: permute_heads(e, o["head_size"], o.get("heads"), _OPPOSITE[o["to"]]),
    ),
    "concatenate": Operation(
        {"axis": whole, "sizes": whole_list, "each": whole},
        frozenset(),
        lambda o: o.get("each"),
        lambda o: 1,
        lambda parts, o, *_: [_joined(parts, o)],
        lambda parts, o, count: _cut(parts[0], o.get("axis", 0), o.get("sizes"), count),
    ),
    "stack": Operation(
        {"axis": whole, "each": whole},
        frozenset(),
        lambda o: o.get("each"),
        lambda o: 1,
        lambda parts, o, *_: [_stacked(parts, o.get("axis", 0))],
        lambda parts, o, count: _unstacked(parts[0], o.get("axis", 0), count),
    ),
    "split": Operation(
        {"axis": whole, "sizes": whole_list, "parts": whole},
        frozenset(),
        lambda o: 1,
        lambda o: len(o["sizes"]) if "sizes" in o else o.get("parts"),
        _split,
        lambda parts, o, _: [concatenate(parts, o.get("axis", 0))],
    ),
    "unstack": Operation(
        {"axis": whole, "parts": whole},
        frozenset(),
        lambda o: 1,
        lambda o: o.get("parts"),
        lambda parts, o, _, count: _unstacked(parts[0], o.get("axis", 0), count),
        lambda parts, o, _: [_stacked(parts, o.get("axis", 0))],
    ),
    "order": Operation(
        {"places": _permutation},
        frozenset({"places"}),
        lambda o: len(o["places"]),
        lambda o: len(o["places"]),
        lambda parts, o, *_: [parts[place] for place in o["places"]],
        lambda parts, o, _: [parts[place] for place in _inverse(o["places"])],
    ),
    "weight_norm": Operation(
        {"axis": _or_none},
        frozenset({"axis"}),
        lambda o: 2,
        lambda o: 1,
        lambda parts, o, *_: [_weight(parts, o)],
        lambda parts, o, _: _norm_and_weight(parts[0], o),
    ),
}
