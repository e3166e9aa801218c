"""Elementwise ops: arithmetic with numpy broadcasting, activations, comparisons, casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, broadcast, floats, need, numbers, shaped, sum_to
from latentc.ir.types import NUMPY, TensorType


def _broadcast_pair(ins: Sequence[TensorType]) -> TensorType:
    a, b = ins
    need(a.dtype == b.dtype, "operands have dtypes {} and {}; cast one", a.dtype, b.dtype)
    return TensorType(a.dtype, broadcast(a.shape, b.shape))


def _pair(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    numbers(ins, attrs)
    return [_broadcast_pair(ins)]


def _compare(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return [_broadcast_pair(ins).with_dtype("bool")]


def unary(
    name: str,
    fn: Callable[[Array], Array],
    vjp: Any,
    doc: str,
    source: str = "",
    infer: Any = floats,
    decompose: Any = None,
) -> Op:
    """A function of one operand; `vjp(b, x, y, g)` returns the gradient."""

    def evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        return [np.asarray(fn(xs[0]), dtype=xs[0].dtype)]

    def gradient(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
        return [vjp(b, ins[0], outs[0], grads[0])]

    rule, there = (gradient, True) if vjp else (None, False)
    return Op(f"{name}(x)", doc, infer, evaluate, rule, decompose=decompose, source=source, differentiable=there)


def binary(name: str, fn: Callable[[Array, Array], Array], vjp: Any, doc: str, infer: Any = _pair) -> Op:
    """A broadcasting function of two operands; `vjp(b, x, y, out, g)` returns both gradients in its shape."""

    def evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        out = np.asarray(fn(xs[0], xs[1]))
        return [out if infer is _compare else out.astype(xs[0].dtype, copy=False)]

    def gradient(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
        pair = vjp(b, ins[0], ins[1], outs[0], grads[0])
        return [sum_to(b, g, x.type) for g, x in zip(pair, ins, strict=True)]

    return Op(f"{name}(x, y)", doc, infer, evaluate, gradient if vjp else None, differentiable=vjp is not None)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(attrs["approximate"] in ("none", "tanh"), "approximate is 'none' or 'tanh'")
    return floats(ins, attrs)


def _gelu_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (x,) = ins
    if attrs["approximate"] == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return [x * 0.5 * (b.tanh(inner) + 1.0)]
    return [x * 0.5 * (b.erf(x * (1 / math.sqrt(2))) + 1.0)]


def _gelu_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), g = ins, grads[0]
    if attrs["approximate"] == "tanh":
        c = math.sqrt(2 / math.pi)
        t = b.tanh((x + x * x * x * 0.044715) * c)
        return [g * ((t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * ((x * x * (3 * 0.044715) + 1.0) * c))]
    density = b.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return [g * ((b.erf(x * (1 / math.sqrt(2))) + 1.0) * 0.5 + x * density)]


def _mish_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    """tanh(log(1 + e)) is e (e + 2) / (e (e + 2) + 2) with e = exp(x): 1 in float32 from x = 9 on."""
    (x,) = ins
    e = b.exp(b.minimum(x, 20.0))
    m = e * (e + 2.0)
    return [x * (m / (m + 2.0))]


def _mish_vjp(b: Any, x: Any, g: Any) -> Any:
    t = b.tanh(b.softplus(x))
    return g * (t + x * (1.0 - t * t) * b.sigmoid(x))


def _cast_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(attrs["to"] in NUMPY, "unknown dtype {!r}", attrs["to"])
    return [ins[0].with_dtype(attrs["to"])]


def _where_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(ins[0].dtype == "bool", "condition is {}; wants bool", ins[0])
    need(ins[1].dtype == ins[2].dtype, "branches have dtypes {} and {}", ins[1].dtype, ins[2].dtype)
    return [TensorType(ins[1].dtype, broadcast(ins[0].shape, broadcast(ins[1].shape, ins[2].shape)))]


def _where_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    c, x, y = ins
    g = grads[0]
    return [None, sum_to(b, b.where(c, g, 0.0), x.type), sum_to(b, b.where(c, 0.0, g), y.type)]


def _clamp_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(attrs["low"] <= attrs["high"], "low is {}; wants at most high = {}", attrs["low"], attrs["high"])
    return numbers(ins, attrs)


def _clamp_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    (x,), g = ins, grads[0]
    inside = b.logical_and(b.less_equal(b.scalar(attrs["low"], x), x), b.less_equal(x, b.scalar(attrs["high"], x)))
    return [b.where(inside, g, 0.0)]


def _dropout_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(0 <= attrs["p"] < 1, "probability {} is outside [0, 1)", attrs["p"])
    return floats(ins, attrs)


def _logical(name: str, fn: Any, doc: str) -> Op:
    def infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        need(all(t.dtype == "bool" for t in ins), f"takes bool operands, got {', '.join(t.dtype for t in ins)}")
        return [_broadcast_pair(ins)]

    return binary(name, fn, None, doc, infer)


_ROWS = [
    unary("neg", np.negative, lambda b, x, y, g: -g, "-x", infer=numbers),
    unary("exp", np.exp, lambda b, x, y, g: g * y, "e to the x"),
    unary("log", np.log, lambda b, x, y, g: g / x, "natural logarithm"),
    unary("sqrt", np.sqrt, lambda b, x, y, g: g * 0.5 / y, "square root"),
    unary("rsqrt", lambda x: 1 / np.sqrt(x), lambda b, x, y, g: g * -0.5 * y / x, "1 / sqrt(x)"),
    unary("sin", np.sin, lambda b, x, y, g: g * b.cos(x), "sine"),
    unary("cos", np.cos, lambda b, x, y, g: -(g * b.sin(x)), "cosine"),
    unary("atan", np.arctan, lambda b, x, y, g: g / (x * x + 1.0), "inverse tangent, from -pi / 2 to pi / 2"),
    unary("acos", np.arccos, lambda b, x, y, g: -(g / b.sqrt(1.0 - x * x)), "inverse cosine, from 0 to pi"),
    unary("tanh", np.tanh, lambda b, x, y, g: g * (1.0 - y * y), "hyperbolic tangent"),
    unary("sigmoid", sigmoid, lambda b, x, y, g: g * y * (1.0 - y), "1 / (1 + e^-x)"),
    unary("relu", lambda x: np.maximum(x, 0), lambda b, x, y, g: b.where(x > 0.0, g, 0.0), "max(x, 0)"),
    unary("softplus", lambda x: np.logaddexp(x, 0), lambda b, x, y, g: g * b.sigmoid(x), "log(1 + e^x)"),
    unary(
        "silu",
        lambda x: x * sigmoid(x),
        lambda b, x, y, g: g * (b.sigmoid(x) * (x * (1.0 - b.sigmoid(x)) + 1.0)),
        "x * sigmoid(x)",
        "Elfwing et al. 2017",
    ),
    unary(
        "erf",
        _erf,
        lambda b, x, y, g: g * b.exp(x * x * -1.0) * (2 / math.sqrt(math.pi)),
        "Gauss error function",
    ),
    unary("abs", np.abs, lambda b, x, y, g: b.where(x < 0.0, -g, g), "absolute value", infer=numbers),
    unary("floor", np.floor, None, "largest integer that is at most x"),
    binary("add", np.add, lambda b, x, y, o, g: (g, g), "x + y"),
    binary("sub", np.subtract, lambda b, x, y, o, g: (g, -g), "x - y"),
    binary("mul", np.multiply, lambda b, x, y, o, g: (g * y, g * x), "x * y"),
    binary(
        "div",
        lambda x, y: x // y if x.dtype.kind in "iu" else x / y,
        lambda b, x, y, o, g: (g / y, -(g * o / y)),
        "x / y; of integers, rounded towards minus infinity",
    ),
    binary(
        "pow",
        np.power,
        lambda b, x, y, o, g: (g * y * b.pow(x, y - 1.0), g * o * b.log(x)),
        "x to the power y; the gradient with respect to y requires x > 0",
    ),
    binary(
        "maximum",
        np.maximum,
        lambda b, x, y, o, g: (b.where(y <= x, g, 0.0), b.where(y <= x, 0.0, g)),
        "the larger of two",
    ),
    binary(
        "minimum",
        np.minimum,
        lambda b, x, y, o, g: (b.where(x <= y, g, 0.0), b.where(x <= y, 0.0, g)),
        "the smaller of two",
    ),
    binary("equal", np.equal, None, "x == y", _compare),
    binary("less", np.less, None, "x < y", _compare),
    binary("less_equal", np.less_equal, None, "x <= y", _compare),
    binary("greater", np.greater, None, "x > y", _compare),
    _logical("logical_and", np.logical_and, "both"),
    _logical("logical_or", np.logical_or, "either"),
    unary(
        "mish",
        lambda x: x * np.tanh(np.logaddexp(x, 0)),
        lambda b, x, y, g: _mish_vjp(b, x, g),
        "x * tanh(softplus(x))",
        "Misra 2019",
        decompose=_mish_decompose,
    ),
    unary(
        "elu",
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda b, x, y, g: b.where(x > 0.0, g, g * (y + 1.0)),
        "x if it is positive, else e^x - 1",
        "Clevert et al. 2015",
    ),
    Op(
        "leaky_relu(x; slope)",
        "x if it is positive, else x * slope",
        floats,
        lambda xs, a: [np.where(xs[0] > 0, xs[0], xs[0] * xs[0].dtype.type(a["slope"]))],
        lambda b, ins, outs, grads, attrs: [b.where(ins[0] > 0.0, grads[0], grads[0] * attrs["slope"])],
        source="Maas et al. 2013",
    ),
    Op(
        "gelu(x; approximate)",
        "x * Phi(x), by erf (approximate='none') or by tanh",
        _gelu_infer,
        lambda xs, a: [np.asarray(gelu(xs[0], a["approximate"]), dtype=xs[0].dtype)],
        _gelu_vjp,
        decompose=_gelu_decompose,
        source="Hendrycks & Gimpel 2016",
    ),
    Op(
        "stop_gradient(x)",
        "x, without passing on a gradient",
        numbers,
        lambda xs, a: [xs[0]],
        lambda b, ins, outs, grads, attrs: [None],
        flops=0,
    ),
    Op(
        "clamp(x; low, high)",
        "x bounded to [low, high]",
        _clamp_infer,
        lambda xs, a: [np.clip(xs[0], a["low"], a["high"]).astype(xs[0].dtype)],
        _clamp_vjp,
    ),
    Op(
        "cast(x; to)",
        "x with another dtype; floats to integers truncate",
        _cast_infer,
        lambda xs, a: [xs[0].astype(NUMPY[a["to"]])],
        lambda b, ins, outs, grads, attrs: [b.cast(grads[0], to=ins[0].type.dtype) if ins[0].type.is_float else None],
        flops=0,
    ),
    Op(
        "where(condition, x, y)",
        "x where the condition holds, y elsewhere",
        _where_infer,
        lambda xs, a: [np.where(xs[0], xs[1], xs[2])],
        _where_vjp,
    ),
    Op(
        "dropout(x; p)",
        "in training, zeroes elements with probability p and scales the rest by 1 / (1 - p)",
        _dropout_infer,
        flops=0,
        train_only=True,
        differentiable=False,
    ),
    Op(
        "auxiliary_loss(x, loss)",
        "x; in training the scalar `loss` is added to the objective with weight 1",
        shaped("x [*n]", "loss []"),
        flops=0,
        train_only=True,
        differentiable=False,
    ),
]
OPS = {row.name: row for row in _ROWS}
