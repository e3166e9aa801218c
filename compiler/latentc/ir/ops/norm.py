"""Normalisation: over an axis, over groups of channels, over the batch; of weights, by length and spectrally."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, axis_of, check_eps, check_momentum, floats, need, shaped
from latentc.ir.types import TensorType, product

_norm_infer = shaped("x [*n, D]", "scale [D]", "shift [D]")
_grouped = shaped("x [B, C, L, *space]", "scale [C]", "shift [C]")


def _affine(y: Any, params: Iterable[Any]) -> Any:
    """y times the first of `params` plus the second, as far as they are given; arrays or handles of a builder."""
    for combine, param in zip((operator.mul, operator.add), params, strict=False):
        y = combine(y, param)
    return y


def _layer_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, *affine = ins
    return _rms_norm_decompose(b, [x - b.mean(x, axes=(-1,), keepdims=True), *affine], attrs)


def _layer_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, *affine = xs
    return _rms_norm([x - x.mean(axis=-1, keepdims=True), *affine], attrs)


def _rms_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x = ins[0]
    return [_affine(x * b.rsqrt(b.mean(x * x, axes=(-1,), keepdims=True) + attrs["eps"]), ins[1:])]


def _rms_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    return [
        np.asarray(_affine(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + attrs["eps"]), xs[1:]), dtype=x.dtype)
    ]


def _group_norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,), groups = _grouped(ins, attrs), attrs["groups"]
    need(x.shape[1] % groups == 0, "{} groups do not divide the channels of {}", groups, x)
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
    return [_affine(y, (b.reshape(p, shape=column) for p in ins[1:]))]


def _group_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    flat = x.reshape(x.shape[0], attrs["groups"], -1)
    y = _layer_norm([flat], attrs)[0].reshape(x.shape)
    column = (-1, *(1 for _ in x.shape[2:]))
    return [np.asarray(_affine(y, (p.reshape(column) for p in xs[1:])), dtype=x.dtype)]


def _scaled(x: Array, mean: Array, var: Array, affine: Sequence[Array], eps: float) -> Array:
    """x normalised per channel, then scaled and shifted by `affine`: (), (scale,) or (scale, shift)."""
    column = (-1, *(1 for _ in x.shape[2:]))
    y = (x - mean.reshape(column)) / np.sqrt(var.reshape(column) + eps)
    return np.asarray(_affine(y, (p.reshape(column) for p in affine)), dtype=x.dtype)


def _batch_norm_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    """Normalises by the batch statistics; the running variance is updated with the unbiased one, as in PyTorch."""
    x, *running = xs[:3]
    axes = (0, *range(2, x.ndim))
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    count = x.size / x.shape[1]
    found = (mean, var * count / max(count - 1, 1))
    momentum = attrs["momentum"]
    updates = zip(running, found, strict=True)
    new = {i: (1 - momentum) * old + momentum * batch for i, (old, batch) in enumerate(updates, 1)}
    return [_scaled(x, mean, var, xs[3:], attrs["eps"])], new


def _batch_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, mean, var, *affine = ins
    column = (x.shape[1], *(1 for _ in x.shape[2:]))
    y = (x - b.reshape(mean, shape=column)) * b.reshape(b.rsqrt(var + attrs["eps"]), shape=column)
    return [_affine(y, (b.reshape(p, shape=column) for p in affine))]


def singular_value(weight: Array, u: Array, eps: float) -> tuple[Array, Array]:
    """(estimated largest singular value of weight [out, ...], new u), by one power iteration from u."""
    matrix = weight.reshape(len(weight), -1)
    v = _unit(u @ matrix, eps)
    image = matrix @ v
    u = _unit(image, eps)
    return np.asarray(image @ u), u


def _unit(x: Array, eps: float) -> Array:
    return np.asarray(x / np.maximum(np.sqrt((x * x).sum()), eps))


def _spectral_norm_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    sigma, u = singular_value(xs[0], xs[1], attrs["eps"])
    return [np.asarray(xs[0] / sigma, dtype=xs[0].dtype)], {1: u}


def _spectral_parts(b: Any, ins: Any, attrs: Attrs) -> tuple[Any, Any, Any]:
    """(new u [out, 1], v [in, 1], singular value []) of a weight."""
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


def _spectral_norm_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    """Treats u and v as constants: by the envelope theorem the gradient of the singular value is u v^T."""
    u, v, sigma = _spectral_parts(b, ins, attrs)
    (g,), (y,) = grads, outs
    along = b.sum(g * y, axes=tuple(range(g.type.rank)), keepdims=False)
    direction = b.reshape(b.matmul(u, b.transpose(v, perm=(1, 0))), shape=ins[0].shape)
    return [(g - along * direction) / sigma, None]


def _pixel_norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    axis_of(attrs["axis"], ins[0].rank)
    check_eps(attrs)
    return floats(ins, attrs)


def _pixel_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    return [np.asarray(x / (np.sqrt((x * x).mean(attrs["axis"], keepdims=True)) + attrs["eps"]), dtype=x.dtype)]


def _pixel_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x = ins[0]
    return [x / (b.sqrt(b.mean(x * x, axes=(attrs["axis"],), keepdims=True)) + attrs["eps"])]


def row_scales(weight: Array, eps: float, axis: int = 0) -> Array:
    """Scales that give the rows of a weight along `axis` length 1: 1 / (length + eps sqrt(n)), n a row's size."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return np.asarray(1 / (np.sqrt((rows * rows).sum(1)) + eps * rows.shape[1] ** 0.5), dtype=weight.dtype)


def unit_rows(weight: Array, eps: float) -> Array:
    """A weight with rows scaled by `row_scales`."""
    scales = row_scales(weight, eps).reshape(-1, *(1 for _ in weight.shape[1:]))
    return np.asarray(weight * scales)


def _forced_norm_train(xs: Sequence[Array], attrs: Attrs) -> tuple[Sequence[Array], Mapping[int, Array]]:
    kept = unit_rows(xs[0], attrs["eps"]) * xs[0].dtype.type(xs[0][0].size ** 0.5)
    return [unit_rows(kept, attrs["eps"])], {0: kept}


def _forced_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (weight,) = ins
    axes = tuple(range(1, weight.type.rank))
    length = b.sqrt(b.sum(weight * weight, axes=axes, keepdims=True))
    return [weight / (length + attrs["eps"] * b.sqrt(b.scalar(product(weight.shape[1:]), weight)))]


def _weight_norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    weight, gain = ins
    axis = axis_of(attrs["axis"], weight.rank)
    need(gain.shape == (weight.shape[axis],), "the gain is {}; wants one number per index of axis {}", gain, axis)
    need(attrs["output_std"] >= 0, "a standard deviation is not negative")
    return floats([weight], attrs)


def _weight_norm(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    weight, gain = xs
    column = [-1 if a == attrs["axis"] else 1 for a in range(weight.ndim)]
    return [np.asarray(weight * (gain * row_scales(weight, 0.0, attrs["axis"])).reshape(column))]


def _weight_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    weight, gain = ins
    axis, rank = attrs["axis"], weight.type.rank
    length = b.sqrt(b.sum(weight * weight, axes=tuple(a for a in range(rank) if a != axis), keepdims=True))
    return [weight * (b.reshape(gain, shape=length.shape) / length)]


_ROWS = [
    Op(
        "layer_norm(x, scale?, shift?; eps)",
        "(x - mean) / sqrt(var + eps) over the last axis, with optional scale and shift",
        _norm_infer,
        _layer_norm,
        flops=8,
        decompose=_layer_norm_decompose,
        source="Ba et al. 2016",
    ),
    Op(
        "rms_norm(x, scale?; eps)",
        "x / sqrt(mean(x^2) + eps) over the last axis, with optional scale",
        _norm_infer,
        _rms_norm,
        flops=5,
        decompose=_rms_norm_decompose,
        source="Zhang & Sennrich 2019",
    ),
    Op(
        "group_norm(x, scale?, shift?; groups, eps)",
        "layer norm over groups of channels (axis 1) and space, with optional scale and shift per channel",
        _group_norm_infer,
        _group_norm,
        flops=8,
        decompose=_group_norm_decompose,
        source="Wu & He 2018",
    ),
    Op(
        "batch_norm(x, mean, variance, scale?, shift?; eps, momentum)",
        "(x - mean) / sqrt(var + eps) per channel (axis 1), with optional scale and shift; training uses the batch's "
        "mean and variance, and moves the given running ones towards them by the fraction `momentum`",
        shaped(
            "x [B, C, *space]", "mean [C]", "variance [C]", "scale [C]", "shift [C]", checks=(check_eps, check_momentum)
        ),
        lambda xs, attrs: [_scaled(xs[0], xs[1], xs[2], xs[3:], attrs["eps"])],
        flops=2,
        decompose=_batch_norm_decompose,
        source="Ioffe & Szegedy 2015",
        train=_batch_norm_train,
    ),
    Op(
        "spectral_norm(weight, u; eps)",
        "a weight [out, ...] divided by its largest singular value, estimated by one power iteration from u [out]; "
        "training updates u",
        shaped("weight [out, in, *kernel]", "u [out]", checks=(check_eps,)),
        lambda xs, attrs: _spectral_norm_train(xs, attrs)[0],
        _spectral_norm_vjp,
        flops=5,
        decompose=lambda b, ins, attrs: [ins[0] / _spectral_parts(b, ins, attrs)[2]],
        source="Miyato et al. 2018, algorithm 1",
        train=_spectral_norm_train,
    ),
    Op(
        "pixel_norm(x; axis, eps)",
        "x over its root mean square along an axis plus eps",
        _pixel_norm_infer,
        _pixel_norm,
        flops=5,
        decompose=_pixel_norm_decompose,
        source="Karras et al. 2024, equation 30",
    ),
    Op(
        "forced_norm(weight; eps)",
        "a weight [out, ...] whose rows have length 1: each over its length plus eps sqrt(n), n its size; training "
        "first overwrites the weight with sqrt(n) times that",
        shaped("weight [out, in, *kernel]", checks=(check_eps,)),
        lambda xs, attrs: [unit_rows(xs[0], attrs["eps"])],
        flops=3,
        decompose=_forced_norm_decompose,
        source="Karras et al. 2024, equations 47 and 66",
        train=_forced_norm_train,
    ),
    Op(
        "weight_norm(weight, gain; axis, output_std)",
        "a weight whose rows along `axis`, that of a layer's outputs, have the lengths |gain|; before they train, "
        "projects set gain and bias so that the layer's outputs for the first batch have mean 0 and the standard "
        "deviation `output_std`, unless that is 0",
        _weight_norm_infer,
        _weight_norm,
        flops=3,
        decompose=_weight_norm_decompose,
        source="Salimans & Kingma 2016, arXiv:1602.07868",
    ),
]
OPS = {row.name: row for row in _ROWS}
