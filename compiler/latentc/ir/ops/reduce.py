"""Reductions, softmax, order statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, along, axis_of, floats, need, numbers, shaped
from latentc.ir.types import Dim, Sym, TensorType


def reduced(shape: Sequence[Dim], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    drop = {axis_of(a, len(shape)) for a in axes}
    return tuple(1 if i in drop else d for i, d in enumerate(shape) if keepdims or i not in drop)


def _reduce_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = numbers(ins, attrs)
    return [x.with_shape(reduced(x.shape, attrs["axes"], attrs["keepdims"]))]


def _mean_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return _reduce_infer(floats(ins, attrs), attrs)


def _kept(b: Any, g: Any, x: Any, attrs: Attrs) -> Any:
    """The gradient of a reduction's result with the reduced axes as size 1."""
    shape = reduced(x.shape, attrs["axes"], True)
    return g if g.shape == shape else b.reshape(g, shape=shape)


def _spread(b: Any, g: Any, x: Any, attrs: Attrs) -> Any:
    """The gradient of a reduction's result, repeated along the reduced axes."""
    kept = _kept(b, g, x, attrs)
    if kept.shape == x.shape:
        return kept
    if any(isinstance(d, Sym) for d in x.shape[1:]):
        return b.where(b.equal(x, x), kept, kept)
    return b.broadcast_to(kept, x, shape=x.shape)


def _sum_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    return [_spread(b, grads[0], ins[0], attrs)]


def _mean_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), g = ins, grads[0]
    sizes = [x.shape[a] for a in attrs["axes"]]
    if any(isinstance(s, Sym) for s in sizes):  # a run-time count is computed as a sum of ones
        return [_spread(b, g / b.sum(b.fill_like(x, 1.0), **attrs), x, attrs)]
    return [_spread(b, g * (1.0 / int(np.prod([int(s) for s in sizes]))), x, attrs)]


def _reduction(name: str, fn: Any, vjp: Any, doc: str, infer: Any = _reduce_infer) -> Op:
    def evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        return [np.asarray(fn(xs[0], axis=tuple(attrs["axes"]), keepdims=attrs["keepdims"]), dtype=xs[0].dtype)]

    return Op(f"{name}(x; axes, keepdims)", doc, infer, evaluate, vjp, flops=1)


def _max_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    (x,) = ins
    hit = b.equal(x, _kept(b, outs[0], x, attrs))
    ones = b.where(hit, b.scalar(1.0, x), 0.0)
    ties = b.sum(ones, axes=attrs["axes"], keepdims=True)
    return [ones * _kept(b, grads[0], x, attrs) / ties]


def softmax(x: Array, axis: int) -> Array:
    e = np.asarray(x - x.max(axis=axis, keepdims=True))
    np.exp(e, out=e)  # in place, since new memory for large scores takes as long as the sums
    e /= e.sum(axis=axis, keepdims=True)
    return e


def log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), dtype=x.dtype)


def _axis_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    axis_of(attrs["axis"], ins[0].rank)
    return numbers(ins, attrs)


def _softmax_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return _axis_infer(floats(ins, attrs), attrs)


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


def _logsumexp_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = floats(ins, attrs)
    return [x.with_shape(reduced(x.shape, [attrs["axis"]], False))]


def _logsumexp(x: Array, axis: int) -> Array:
    most = x.max(axis=axis, keepdims=True)
    return np.asarray(np.squeeze(most, axis) + np.log(np.exp(x - most).sum(axis=axis)), dtype=x.dtype)


def _logsumexp_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), axes = ins, (attrs["axis"],)
    most = b.max(x, axes=axes, keepdims=True)
    total = most + b.log(b.sum(b.exp(x - most), axes=axes, keepdims=True))
    return [b.reshape(total, shape=reduced(x.shape, axes, False))]


def _logsumexp_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    kept = reduced(ins[0].shape, (attrs["axis"],), True)
    return [b.softmax(ins[0], axis=attrs["axis"]) * b.reshape(grads[0], shape=kept)]


def _argsort_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = ins
    static = x.rank > 0 and not isinstance(x.shape[-1], Sym)
    need(static and x.dtype != "bool", "takes numbers with a static last size, got {}", x)
    return [x.with_dtype("i64")]


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


def _top_k_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,), k = ins, attrs["k"]
    (indices,) = _argsort_infer(ins, attrs)
    need(0 < k <= x.shape[-1], "k = {} is outside 1..{}", k, x.shape[-1])
    shape = (*x.shape[:-1], k)
    return [x.with_shape(shape), indices.with_shape(shape)]


def _top_k(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    order = np.argsort(-xs[0], axis=-1, kind="stable")[..., : attrs["k"]]
    return [np.take_along_axis(xs[0], order, axis=-1), order.astype(np.int64)]


def _cumprod_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = floats(ins, attrs)
    axis = axis_of(attrs["axis"], x.rank)
    need(not isinstance(x.shape[axis], Sym), "the length of axis {} of {} must be known", axis, x)
    return [x]


def _cumprod_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    """Each element times that `reach` places before it, for reach 1, 2, 4, …: exact for zeros and negative numbers."""
    (x,) = ins
    axis = attrs["axis"] % x.type.rank
    length, reach = int(x.shape[axis]), 1
    while reach < length:
        earlier = b.slice(x, axis=axis, start=0, stop=length - reach)
        x = x * b.pad(earlier, axis=axis, before=reach, after=0, value=1.0)
        reach *= 2
    return [x]


def _cumsum_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    g, axis = grads[0], attrs["axis"]
    return [b.sum(g, axes=(axis,), keepdims=True) - b.cumsum(g, axis=axis) + g]


_ROWS = [
    _reduction("sum", np.sum, _sum_vjp, "sum over axes"),
    _reduction("mean", np.mean, _mean_vjp, "mean over axes", _mean_infer),
    _reduction("max", np.max, _max_vjp, "maximum over axes; ties share the gradient"),
    Op(
        "softmax(x; axis)",
        "exp(x) / sum exp(x) along an axis",
        _softmax_infer,
        lambda xs, a: [softmax(xs[0], a["axis"])],
        _softmax_vjp,
        flops=4,
        decompose=_softmax_decompose,
    ),
    Op(
        "log_softmax(x; axis)",
        "x - log sum exp(x) along an axis",
        _softmax_infer,
        lambda xs, a: [log_softmax(xs[0], a["axis"])],
        _log_softmax_vjp,
        flops=4,
        decompose=_log_softmax_decompose,
    ),
    Op(
        "logsumexp(x; axis)",
        "log sum exp(x) over an axis, which is dropped",
        _logsumexp_infer,
        lambda xs, a: [_logsumexp(xs[0], a["axis"])],
        _logsumexp_vjp,
        flops=4,
        decompose=_logsumexp_decompose,
    ),
    Op(
        "cross_entropy(logits, target)",
        "-log softmax(logits)[target], one value per row",
        shaped("logits [N, V]", "i64 target [N]", gives="[N]"),
        lambda xs, attrs: [-np.take_along_axis(log_softmax(xs[0], -1), xs[1][:, None], axis=-1)[:, 0]],
        _cross_entropy_vjp,
        flops=4,
        decompose=_cross_entropy_decompose,
    ),
    Op(
        "argmax(x; axis)",
        "index of the first maximum along an axis, i64",
        lambda ins, attrs: [TensorType("i64", reduced(ins[0].shape, [attrs["axis"]], False))],
        lambda xs, a: [np.asarray(np.argmax(xs[0], axis=a["axis"]), dtype=np.int64)],
        flops=1,
        differentiable=False,
    ),
    Op(
        "top_k(x; k)",
        "the k largest elements along the last axis in descending order, and their indices; ties keep their order",
        _top_k_infer,
        _top_k,
        lambda b, ins, outs, grads, attrs: [along(b, ins[0], outs[1], grads[0], -1) if grads[0] is not None else None],
        flops=4,
    ),
    Op(
        "argsort(x)",
        "indices that sort the last axis in ascending order, i64; equal elements keep their order. Applied twice, it "
        "gives each element's rank",
        _argsort_infer,
        lambda xs, a: [np.argsort(xs[0], axis=-1, kind="stable").astype(np.int64)],
        flops=4,
        differentiable=False,
    ),
    Op(
        "cumsum(x; axis)",
        "running sum along an axis",
        _axis_infer,
        lambda xs, a: [np.cumsum(xs[0], axis=a["axis"], dtype=xs[0].dtype)],
        _cumsum_vjp,
        flops=1,
    ),
    Op(
        "cumprod(x; axis)",
        "running product along an axis",
        _cumprod_infer,
        lambda xs, a: [np.cumprod(xs[0], axis=a["axis"], dtype=xs[0].dtype)],
        flops=1,
        decompose=_cumprod_decompose,
        sugar=True,
    ),
]
OPS = {row.name: row for row in _ROWS}
