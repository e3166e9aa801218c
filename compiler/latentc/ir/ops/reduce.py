"""Reductions, softmax, order statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, axis_of, need
from latentc.ir.types import Dim, Sym, TensorType


def reduced(shape: Sequence[Dim], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    drop = {axis_of(a, len(shape)) for a in axes}
    return tuple(1 if i in drop else d for i, d in enumerate(shape) if keepdims or i not in drop)


def _reduce_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return [ins[0].with_shape(reduced(ins[0].shape, attrs["axes"], attrs["keepdims"]))]


def _kept(b: Any, g: Any, x: Any, attrs: Attrs) -> Any:
    """A reduction's gradient with the reduced axes back as size 1."""
    return b.reshape(g, shape=reduced(x.shape, attrs["axes"], True))


def _count(x: Any, axes: Sequence[int]) -> int:
    sizes = [x.shape[a] for a in axes]
    need(not any(isinstance(s, Sym) for s in sizes), "a mean over a run-time size has no derivative here")
    return int(np.prod([int(s) for s in sizes]))


def _reduction(name: str, fn: Any, vjp: Any, doc: str) -> Op:
    def evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        return [np.asarray(fn(xs[0], axis=tuple(attrs["axes"]), keepdims=attrs["keepdims"]), dtype=xs[0].dtype)]

    def flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
        return ins[0].count()

    return Op(name, doc, _reduce_infer, evaluate, vjp, flops)


def _max_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    (x,) = ins
    hit = b.equal(x, _kept(b, outs[0], x, attrs))
    ones = b.where(hit, x * 0.0 + 1.0, x * 0.0)
    ties = b.sum(ones, axes=attrs["axes"], keepdims=True)
    return [ones * _kept(b, grads[0], x, attrs) / ties]


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True), dtype=x.dtype)


def log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), dtype=x.dtype)


def _axis_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    axis_of(attrs["axis"], ins[0].rank)
    return [ins[0]]


def _softmax_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    y, g = outs[0], grads[0]
    return [y * (g - b.sum(g * y, axes=(attrs["axis"],), keepdims=True))]


def _log_softmax_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    g = grads[0]
    return [g - b.exp(outs[0]) * b.sum(g, axes=(attrs["axis"],), keepdims=True)]


def _softmax_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), axes = ins, (attrs["axis"],)
    e = b.exp(x - b.max(x, axes=axes, keepdims=True))
    return [e / b.sum(e, axes=axes, keepdims=True)]


def _log_softmax_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), axes = ins, (attrs["axis"],)
    shifted = x - b.max(x, axes=axes, keepdims=True)
    return [shifted - b.log(b.sum(b.exp(shifted), axes=axes, keepdims=True))]


def _cross_entropy_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    logits, target = ins
    need(logits.rank == 2 and target.dtype == "i64", f"takes logits [N, V] and i64 [N], got {logits} and {target}")
    need(target.shape == logits.shape[:1], f"target {target} does not line up with {logits}")
    return [logits.with_shape(logits.shape[:1])]


def _cross_entropy(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return [-np.take_along_axis(log_softmax(xs[0], -1), xs[1][:, None], axis=-1)[:, 0]]


def _cross_entropy_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    logits, target = ins
    rows = target.shape[0]
    picked = b.take_along(b.log_softmax(logits, axis=-1), b.reshape(target, shape=(rows, 1)), axis=1)
    return [-b.reshape(picked, shape=(rows,))]


def _cross_entropy_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    logits, target = ins
    rows, classes = logits.shape
    column = b.reshape(target, shape=(rows, 1))
    hit = b.equal(column, b.constant(np.arange(int(classes))))
    p = b.softmax(logits, axis=-1)
    return [b.where(hit, p - 1.0, p) * b.reshape(grads[0], shape=(rows, 1)), None]


def _argmax_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return [TensorType("i64", reduced(ins[0].shape, [attrs["axis"]], False))]


def _top_k_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,), k = ins, attrs["k"]
    need(0 < k <= x.shape[-1], f"k = {k} is outside 1..{x.shape[-1]}")
    out = x.with_shape([*x.shape[:-1], k])
    return [out, out.with_dtype("i64")]


def _top_k(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    order = np.argsort(-xs[0], axis=-1, kind="stable")[..., : attrs["k"]]
    return [np.take_along_axis(xs[0], order, axis=-1), order.astype(np.int64)]


def _cumsum_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    g, axis = grads[0], attrs["axis"]
    return [b.sum(g, axes=(axis,), keepdims=True) - b.cumsum(g, axis=axis) + g]


def _cost(per_element: int) -> Any:
    return lambda ins, outs, attrs: per_element * ins[0].count()


_ROWS = [
    _reduction(
        "sum",
        np.sum,
        lambda b, ins, outs, grads, attrs: [_kept(b, grads[0], ins[0], attrs) + ins[0] * 0.0],
        "sum over axes",
    ),
    _reduction(
        "mean",
        np.mean,
        lambda b, ins, outs, grads, attrs: [
            (_kept(b, grads[0], ins[0], attrs) + ins[0] * 0.0) * (1.0 / _count(ins[0], attrs["axes"]))
        ],
        "mean over axes",
    ),
    _reduction("max", np.max, _max_vjp, "largest over axes; ties share the gradient"),
    Op(
        "softmax",
        "exp(x) / sum exp(x) along an axis",
        _axis_infer,
        lambda xs, a: [softmax(xs[0], a["axis"])],
        _softmax_vjp,
        _cost(4),
        _softmax_decompose,
    ),
    Op(
        "log_softmax",
        "x - log sum exp(x) along an axis",
        _axis_infer,
        lambda xs, a: [log_softmax(xs[0], a["axis"])],
        _log_softmax_vjp,
        _cost(4),
        _log_softmax_decompose,
    ),
    Op(
        "cross_entropy",
        "-log softmax(logits)[target], a value a row",
        _cross_entropy_infer,
        _cross_entropy,
        _cross_entropy_vjp,
        _cost(4),
        _cross_entropy_decompose,
    ),
    Op(
        "argmax",
        "index of the (first) largest along an axis, i64",
        _argmax_infer,
        lambda xs, a: [np.argmax(xs[0], axis=a["axis"]).astype(np.int64)],
        None,
        _cost(1),
        differentiable=False,
    ),
    Op(
        "top_k",
        "the k largest along the last axis, in descending order, and their indices; of equals the first comes first",
        _top_k_infer,
        _top_k,
        None,
        _cost(4),
        differentiable=False,
    ),
    Op(
        "cumsum",
        "running sum along an axis",
        _axis_infer,
        lambda xs, a: [np.cumsum(xs[0], axis=a["axis"], dtype=xs[0].dtype)],
        _cumsum_vjp,
        _cost(1),
    ),
]
OPS = {row.name: row for row in _ROWS}
