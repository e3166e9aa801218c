"""Ops that move, select and lay out data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, along, axis_of, broadcast, need, sum_to
from latentc.ir.types import NUMPY, Dim, Sym, TensorType, product


def _reshape_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    shape = tuple(attrs["shape"])
    need(all(isinstance(d, Sym) or d >= 0 for d in shape), "shape {} has a negative size", list(shape))
    need(product(ins[0].shape) == product(shape), "{} and {} differ in the number of elements", ins[0], list(shape))
    return [ins[0].with_shape(shape)]


def _target(x: Array, shape: Sequence[Dim]) -> tuple[int, ...]:
    """The shape with its run-time size, of which there is at most one, as -1 for numpy to infer."""
    return tuple(-1 if isinstance(d, Sym) else int(d) for d in shape)


def _transpose_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    perm = attrs["perm"]
    need(sorted(perm) == list(range(ins[0].rank)), "perm {} does not permute rank {}", perm, ins[0].rank)
    return [ins[0].with_shape(ins[0].shape[p] for p in perm)]


def _broadcast_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    shape = tuple(attrs["shape"])
    own: tuple[Dim, ...] = (*[1] * (len(shape) - ins[0].rank), *ins[0].shape)
    need(len(own) == len(shape) and broadcast(own, shape) == shape, "{} does not broadcast to {}", ins[0], list(shape))
    known = (*(ins[1].shape[:1] or own[:1]), *own[1:]) if len(ins) > 1 else own
    for dim, size in zip(shape, known, strict=True):
        need(not isinstance(dim, Sym) or size == dim, "no operand has the run-time size {}", dim)
    return [ins[0].with_shape(shape)]


def _broadcast(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, shape = xs[0], attrs["shape"]
    own = (1,) * (len(shape) - x.ndim) + x.shape
    known = (*(xs[1].shape[:1] or own[:1]), *own[1:]) if len(xs) > 1 else own
    return [np.broadcast_to(x, [n if isinstance(d, Sym) else int(d) for d, n in zip(shape, known, strict=True)])]


def _same_but(axis: int, x: TensorType, y: TensorType) -> bool:
    """True if two tensors have the same shape except along an axis."""
    return x.rank == y.rank and x.with_axis(axis).shape == y.with_axis(axis).shape


def _concat_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    axis = axis_of(attrs["axis"], ins[0].rank)
    for t in ins[1:]:
        fits = t.dtype == ins[0].dtype and _same_but(axis, t, ins[0])
        need(fits, "{} does not concatenate with {} along axis {}", t, ins[0], axis)
    dims = [t.shape[axis] for t in ins]
    total: Dim = dims[0]
    for d in dims[1:]:
        if isinstance(total, Sym):
            need(isinstance(d, Sym) and d.name == total.name, "cannot add sizes {} and {}", total, d)
            total = Sym(total.name, total.factor + d.factor)  # type: ignore[union-attr]
        else:
            need(not isinstance(d, Sym), "cannot add sizes {} and {}", total, d)
            total = total + d  # type: ignore[operator]
    return [ins[0].with_axis(axis, total)]


def _concat_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    axis = axis_of(attrs["axis"], ins[0].type.rank)
    sizes = tuple(x.shape[axis] for x in ins)
    return list(b.split(grads[0], axis=axis, sizes=sizes)) if len(ins) > 1 else [grads[0]]


def _split_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,), axis = ins, axis_of(attrs["axis"], ins[0].rank)
    whole, sizes = x.shape[axis], attrs["sizes"]
    kinds = {s.name if isinstance(s, Sym) else "" for s in (whole, *sizes)}
    need(len(kinds) == 1 and len(sizes) > 0, "sizes {} do not divide {}", sizes, whole)
    need(sum(map(_count, sizes)) == _count(whole), "sizes {} do not sum to {}", sizes, whole)
    return [x.with_axis(axis, size) for size in sizes]


def _count(size: Dim) -> int:
    """A size, or the factor of a run-time size."""
    return size.factor if isinstance(size, Sym) else int(size)


def _split(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    (x,), axis = xs, attrs["axis"]
    parts = list(map(_count, attrs["sizes"]))
    unit = x.shape[axis] // sum(parts)
    return np.split(x, np.cumsum(parts)[:-1] * unit, axis=axis)


def _filled(b: Any, outs: Any, grads: Any) -> list[Any]:
    """The gradients of all outputs, None replaced by zeros."""
    return [b.fill_like(o, 0.0) if g is None else g for g, o in zip(grads, outs, strict=True)]


def _unbind_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,), axis = ins, axis_of(attrs["axis"], ins[0].rank)
    need(not isinstance(x.shape[axis], Sym), "cannot unbind the run-time size {}", x.shape[axis])
    return [x.with_axis(axis)] * int(x.shape[axis])  # type: ignore[arg-type]


def _unbind_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    axis = axis_of(attrs["axis"], ins[0].type.rank)
    one = ins[0].type.with_axis(axis, 1).shape
    return [b.concat(*(b.reshape(g, shape=one) for g in _filled(b, outs, grads)), axis=axis)]


def _slice_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,), axis = ins, axis_of(attrs["axis"], ins[0].rank)
    start, stop, size = attrs["start"], attrs["stop"], x.shape[axis]
    need(not isinstance(size, Sym), "cannot slice the run-time size {}", size)
    need(0 <= start < stop <= size, "slice {}:{} is outside size {}", start, stop, size)
    return [x.with_axis(axis, stop - start)]


def _slice(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    where = [slice(None)] * xs[0].ndim
    where[attrs["axis"]] = slice(attrs["start"], attrs["stop"])
    return [xs[0][tuple(where)]]


def _slice_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), axis = ins, axis_of(attrs["axis"], ins[0].type.rank)
    before, after = attrs["start"], x.shape[axis] - attrs["stop"]
    return [b.pad(grads[0], axis=axis, before=before, after=after, value=0.0)]


def _pad_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,), axis = ins, axis_of(attrs["axis"], ins[0].rank)
    need(attrs["before"] >= 0 and attrs["after"] >= 0, "before and after are not negative")
    return [x.with_axis(axis, x.shape[axis] + attrs["before"] + attrs["after"])]


def _pad(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    widths = [(0, 0)] * xs[0].ndim
    widths[attrs["axis"]] = (attrs["before"], attrs["after"])
    return [np.pad(xs[0], widths, constant_values=attrs["value"])]


def _pad_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    size = ins[0].shape[attrs["axis"]]
    return [b.slice(grads[0], axis=attrs["axis"], start=attrs["before"], stop=attrs["before"] + size)]


def _take_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, index = ins
    need(index.dtype in ("i64", "i32"), "index has dtype {}; wants integers", index.dtype)
    axis = axis_of(attrs["axis"], x.rank)
    return [x.with_axis(axis, *index.shape)]


def _take_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, index = ins
    return [b.scatter_add(b.fill_like(x, 0.0), index, grads[0], axis=attrs["axis"]), None]


def _scatter_add_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, index, update = ins
    taken = _take_infer([x, index], attrs)[0]
    need(taken == update, "update is {}; wants {}", update, taken)
    return [x]


def _scatter_add(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, index, update = xs
    out = np.array(x)
    np.add.at(out, (slice(None),) * (attrs["axis"] % x.ndim) + (index,), update)
    return [out]


def _take_along_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, index = ins
    axis = axis_of(attrs["axis"], x.rank)
    need(index.dtype in ("i64", "i32"), "index has dtype {}; wants integers", index.dtype)
    need(_same_but(axis, x, index), "index {} does not line up with {} along axis {}", index, x, axis)
    return [x.with_shape(index.shape)]


def _update_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, update, start = ins
    axis = axis_of(attrs["axis"], x.rank)
    need(start.dtype == "i64" and start.rank == 0, "start is {}; wants i64[]", start)
    have, room = update.shape[axis], x.shape[axis]
    fits = not isinstance(have, Sym) and not isinstance(room, Sym) and have <= room
    need(fits, "update {} is longer than {} along axis {}", update, x, axis)
    need(
        update.dtype == x.dtype and _same_but(axis, x, update),
        "update {} does not fit {} along axis {}",
        update,
        x,
        axis,
    )
    return [x]


def _update(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, update, start = xs
    out = np.array(x)
    where = [slice(None)] * x.ndim
    where[attrs["axis"]] = slice(int(start), int(start) + update.shape[attrs["axis"]])
    out[tuple(where)] = update
    return [out]


def _update_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    _x, update, start = ins
    g, axis = grads[0], axis_of(attrs["axis"], update.type.rank)
    rows = b.constant(np.arange(int(update.shape[axis]))) + start
    return [b.update_slice(g, b.fill_like(update, 0.0), start, axis=axis), b.take(g, rows, axis=axis), None]


def _constant_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    value = np.asarray(attrs["value"])
    need(attrs["dtype"] in NUMPY, "unknown dtype {!r}", attrs["dtype"])
    return [TensorType(attrs["dtype"], tuple(value.shape))]


def _full_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(ins[0].rank > 0, "takes its batch size from an operand's first dimension")
    need(attrs["dtype"] in NUMPY, "unknown dtype {!r}", attrs["dtype"])
    need(not any(isinstance(d, Sym) for d in attrs["shape"]), "only its first dimension is a run-time size")
    return [TensorType(attrs["dtype"], (ins[0].shape[0] * attrs.get("factor", 1), *attrs["shape"]))]


def _full(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    shape = (xs[0].shape[0] * attrs.get("factor", 1), *map(int, attrs["shape"]))
    return [np.full(shape, attrs["value"], dtype=NUMPY[attrs["dtype"]])]


_ROWS = [
    Op(
        "constant(; value, dtype, size?)",
        "a literal tensor; floats are stored in float64 until a backend rounds them",
        _constant_infer,
        lambda xs, a: [np.asarray(a["value"]).astype(NUMPY[a["dtype"]])],
        lambda b, ins, outs, grads, attrs: [],
        flops=0,
    ),
    Op(
        "full(x; shape, value, dtype, factor?)",
        "[batch of the operand (times factor), *shape] filled with a value",
        _full_infer,
        _full,
        lambda b, ins, outs, grads, attrs: [None],
        flops=0,
    ),
    Op(
        "reshape(x; shape)",
        "the same elements in row-major order, in another shape",
        _reshape_infer,
        lambda xs, a: [xs[0].reshape(_target(xs[0], a["shape"]))],
        lambda b, ins, outs, grads, attrs: [b.reshape(grads[0], shape=ins[0].shape)],
        flops=0,
    ),
    Op(
        "transpose(x; perm)",
        "axes reordered by perm",
        _transpose_infer,
        lambda xs, a: [xs[0].transpose(a["perm"])],
        lambda b, ins, outs, grads, attrs: [b.transpose(grads[0], perm=tuple(np.argsort(attrs["perm"]).tolist()))],
        flops=0,
    ),
    Op(
        "broadcast_to(x, like?; shape)",
        "x broadcast to a shape; a second operand gives the batch size if the shape has one that x has not",
        _broadcast_infer,
        _broadcast,
        lambda b, ins, outs, grads, attrs: [sum_to(b, grads[0], ins[0].type)] + [None] * (len(ins) - 1),
        flops=0,
    ),
    Op(
        "concat(x, *more; axis)",
        "operands joined along an axis",
        _concat_infer,
        lambda xs, a: [np.concatenate(xs, axis=a["axis"])],
        _concat_vjp,
        flops=0,
    ),
    Op(
        "split(x; axis, sizes)",
        "consecutive parts of the given sizes along an axis",
        _split_infer,
        _split,
        lambda b, ins, outs, grads, attrs: [b.concat(*_filled(b, outs, grads), axis=attrs["axis"])],
        flops=0,
    ),
    Op(
        "unbind(x; axis)",
        "the slices along an axis, without that axis",
        _unbind_infer,
        lambda xs, a: [np.take(xs[0], i, axis=a["axis"]) for i in range(xs[0].shape[a["axis"]])],
        _unbind_vjp,
        flops=0,
    ),
    Op("slice(x; axis, start, stop)", "start:stop along an axis", _slice_infer, _slice, _slice_vjp, flops=0),
    Op(
        "pad(x; axis, before, after, value)",
        "a constant before and after, along an axis",
        _pad_infer,
        _pad,
        _pad_vjp,
        flops=0,
    ),
    Op(
        "take(x, index; axis)",
        "rows selected by integer index along an axis, which the shape of the index replaces",
        _take_infer,
        lambda xs, a: [np.take(xs[0], xs[1], axis=a["axis"])],
        _take_vjp,
        flops=0,
    ),
    Op(
        "take_along(x, index; axis)",
        "elements selected by an index of the same rank (numpy's take_along_axis)",
        _take_along_infer,
        lambda xs, a: [np.take_along_axis(xs[0], xs[1], axis=a["axis"])],
        lambda b, ins, outs, grads, attrs: [along(b, ins[0], ins[1], grads[0], attrs["axis"]), None],
        flops=0,
    ),
    Op(
        "scatter_add(x, index, update; axis)",
        "x with update added to the rows that index selects (the transpose of take)",
        _scatter_add_infer,
        _scatter_add,
        lambda b, ins, outs, grads, attrs: [grads[0], None, b.take(grads[0], ins[1], axis=attrs["axis"])],
    ),
    Op(
        "update_slice(x, update, start; axis)",
        "x with update written along an axis, beginning at row start (i64[]); appends to a key-value cache",
        _update_infer,
        _update,
        _update_vjp,
        flops=0,
    ),
]
OPS = {row.name: row for row in _ROWS}
