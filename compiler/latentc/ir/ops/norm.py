"""Normalisation over the last axis, or over groups of channels."""

from __future__ import annotations

from collections.abc import Sequence
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
        operands=(1, 3),
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
        operands=(1, 2),
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
        operands=(1, 3),
        attrs="groups eps",
    ),
]
OPS = {row.name: row for row in _ROWS}
