"""Normalisation: over the last axis, over groups of channels, over the batch; and of a weight by its spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.linear import same_dtype
from latentc.ir.ops.row import Array, Attrs, Op, need
from latentc.ir.types import TensorType, product


def _norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = ins[0]
    need(x.is_float and x.rank > 0, f"takes floats with at least one axis, got {x}")
    same_dtype(ins)
    for t in ins[1:]:
        need(t.shape == (x.shape[-1],), f"scale or shift is {t}; wants [{x.shape[-1]}]")
    return [x]


def _layer_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x = ins[0]
    centred = x - b.mean(x, axes=(-1,), keepdims=True)
    y = centred * b.rsqrt(b.mean(centred * centred, axes=(-1,), keepdims=True) + attrs["eps"])
    if len(ins) > 1:
        y = y * ins[1]
    return [y + ins[2] if len(ins) > 2 else y]


def _layer_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + attrs["eps"])
    y = y * xs[1] if len(xs) > 1 else y
    return [np.asarray(y + xs[2] if len(xs) > 2 else y, dtype=x.dtype)]


def _rms_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x = ins[0]
    y = x * b.rsqrt(b.mean(x * x, axes=(-1,), keepdims=True) + attrs["eps"])
    return [y * ins[1] if len(ins) > 1 else y]


def _rms_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + attrs["eps"])
    return [np.asarray(y * xs[1] if len(xs) > 1 else y, dtype=x.dtype)]


def _group_norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, groups = ins[0], attrs["groups"]
    need(x.is_float, f"takes floats, got {x}")
    need(x.rank >= 3 and x.shape[1] % groups == 0, f"{groups} groups do not divide the channels of {x}")
    same_dtype(ins)
    for t in ins[1:]:
        need(t.shape == (x.shape[1],), f"scale or shift is {t}; wants [{x.shape[1]}]")
    return [x]


def _group_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, groups = ins[0], attrs["groups"]
    batch, channels, *spatial = x.shape
    inner = product(spatial) * (channels // groups)
    y = b.reshape(
        b.layer_norm(b.reshape(x, shape=(batch, groups, inner)), eps=attrs["eps"]),
        shape=(batch, channels, *spatial),
    )
    column = (channels, *(1 for _ in spatial))
    if len(ins) > 1:
        y = y * b.reshape(ins[1], shape=column)
    return [y + b.reshape(ins[2], shape=column) if len(ins) > 2 else y]


def _group_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    flat = x.reshape(x.shape[0], attrs["groups"], -1)
    y = _layer_norm([flat], attrs)[0].reshape(x.shape)
    column = (-1, *(1 for _ in x.shape[2:]))
    y = y * xs[1].reshape(column) if len(xs) > 1 else y
    return [np.asarray(y + xs[2].reshape(column) if len(xs) > 2 else y, dtype=x.dtype)]


def _batch_norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = ins[0]
    need(x.is_float and x.rank >= 2, f"takes floats [B, C, ...], got {x}")
    need(attrs["eps"] > 0 and 0 <= attrs["momentum"] <= 1, "eps is positive, momentum lies between 0 and 1")
    same_dtype(ins)
    for t in ins[1:]:
        need(t.shape == (x.shape[1],), f"mean, variance, scale or shift is {t}; wants [{x.shape[1]}]")
    return [x]


def _scaled(x: Array, mean: Array, var: Array, affine: Sequence[Array], eps: float) -> Array:
    """x normalised by channel, then scaled and shifted by what `affine` holds."""
    column = (-1, *(1 for _ in x.shape[2:]))
    y = (x - mean.reshape(column)) / np.sqrt(var.reshape(column) + eps)
    y = y * affine[0].reshape(column) if affine else y
    return np.asarray(y + affine[1].reshape(column) if len(affine) > 1 else y, dtype=x.dtype)


def _batch_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, mean, var, *affine = xs
    return [_scaled(x, mean, var, affine, attrs["eps"])]


def _batch_norm_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    """By the batch's own statistics; the running variance takes the unbiased one, as PyTorch's does."""
    x, *running = xs[:3]
    axes = (0, *range(2, x.ndim))
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    count = x.size / x.shape[1]
    found = (mean, var * count / max(count - 1, 1))
    share = attrs["momentum"]
    moved = {i: (1 - share) * old + share * new for i, (old, new) in enumerate(zip(running, found, strict=True), 1)}
    return [_scaled(x, mean, var, xs[3:], attrs["eps"])], moved


def _batch_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, mean, var, *affine = ins
    column = (x.shape[1], *(1 for _ in x.shape[2:]))
    y = (x - b.reshape(mean, shape=column)) * b.reshape(b.rsqrt(var + attrs["eps"]), shape=column)
    if affine:
        y = y * b.reshape(affine[0], shape=column)
    return [y + b.reshape(affine[1], shape=column) if len(affine) > 1 else y]


def _spectral_norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    weight, u = ins
    need(weight.is_float and weight.rank >= 2, f"takes a weight [out, ...], got {weight}")
    need(attrs["eps"] > 0, "eps is positive")
    need(u.shape == (weight.shape[0],), f"u is {u}; wants [{weight.shape[0]}]")
    same_dtype(ins)
    return [weight]


def singular_value(weight: Array, u: Array, eps: float) -> tuple[Array, Array]:
    """(the estimate of the largest singular value of weight [out, ...], what u becomes): one power iteration from u."""
    matrix = weight.reshape(len(weight), -1)
    v = _unit(u @ matrix, eps)
    image = matrix @ v
    u = _unit(image, eps)
    return np.asarray(image @ u), u


def _unit(x: Array, eps: float) -> Array:
    return np.asarray(x / np.maximum(np.sqrt((x * x).sum()), eps))


def _spectral_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return _spectral_norm_train(xs, attrs)[0]


def _spectral_norm_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    sigma, u = singular_value(xs[0], xs[1], attrs["eps"])
    return [np.asarray(xs[0] / sigma, dtype=xs[0].dtype)], {1: u}


def _spectral_parts(b: Any, ins: Any, attrs: Attrs) -> tuple[Any, Any, Any]:
    """(u [out, 1] after the iteration, v [in, 1], the singular value []) of a weight."""
    weight, u = ins
    rows = weight.shape[0]
    matrix = b.reshape(weight, shape=(rows, product(weight.shape[1:])))

    def unit(x: Any) -> Any:
        length = b.sqrt(b.sum(x * x, axes=(0, 1), keepdims=True))
        return x / b.maximum(length, attrs["eps"])

    v = unit(b.transpose(b.matmul(b.reshape(u, shape=(1, rows)), matrix), perm=(1, 0)))
    image = b.matmul(matrix, v)
    u = unit(image)
    return u, v, b.sum(image * u, axes=(0, 1), keepdims=False)


def _spectral_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    return [ins[0] / _spectral_parts(b, ins, attrs)[2]]


def _spectral_norm_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    """Both vectors are constants: at the largest singular value its derivative is u v^T whatever they do."""
    u, v, sigma = _spectral_parts(b, ins, attrs)
    (g,), (y,) = grads, outs
    along = b.sum(g * y, axes=tuple(range(g.type.rank)), keepdims=False)
    direction = b.reshape(b.matmul(u, b.transpose(v, perm=(1, 0))), shape=ins[0].shape)
    return [(g - along * direction) / sigma, None]


_ROWS = [
    Op(
        "layer_norm",
        "(x - mean) / sqrt(var + eps) over the last axis, scaled and shifted where given",
        _norm_infer,
        _layer_norm,
        None,
        lambda ins, outs, attrs: 8 * ins[0].count(),
        _layer_norm_decompose,
        "Ba et al. 2016",
        operands="x scale? shift?",
        attrs="eps",
    ),
    Op(
        "rms_norm",
        "x / sqrt(mean(x^2) + eps) over the last axis, scaled where given",
        _norm_infer,
        _rms_norm,
        None,
        lambda ins, outs, attrs: 5 * ins[0].count(),
        _rms_norm_decompose,
        "Zhang & Sennrich 2019",
        operands="x scale?",
        attrs="eps",
    ),
    Op(
        "group_norm",
        "layer norm over groups of channels (axis 1) and space, scaled and shifted by channel where given",
        _group_norm_infer,
        _group_norm,
        None,
        lambda ins, outs, attrs: 8 * ins[0].count(),
        _group_norm_decompose,
        "Wu & He 2018",
        operands="x scale? shift?",
        attrs="groups eps",
    ),
    Op(
        "batch_norm",
        "(x - mean) / sqrt(var + eps) by channel (axis 1), scaled and shifted where given; in training mean and "
        "variance are the batch's, and the running ones given move towards them by the share `momentum`",
        _batch_norm_infer,
        _batch_norm,
        None,
        lambda ins, outs, attrs: 2 * ins[0].count(),
        _batch_norm_decompose,
        "Ioffe & Szegedy 2015",
        _batch_norm_train,
        operands="x mean variance scale? shift?",
        attrs="eps momentum",
    ),
    Op(
        "spectral_norm",
        "a weight [out, ...] over its largest singular value as one power iteration from u [out] finds it; in training "
        "u becomes what it finds",
        _spectral_norm_infer,
        _spectral_norm,
        _spectral_norm_vjp,
        lambda ins, outs, attrs: 5 * ins[0].count(),
        _spectral_norm_decompose,
        "Miyato et al. 2018, algorithm 1",
        _spectral_norm_train,
        operands="weight u",
        attrs="eps",
    ),
]
OPS = {row.name: row for row in _ROWS}
