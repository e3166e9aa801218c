"""Attention, rotary positions, the sinusoidal embedding of a timestep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.linear import swap
from latentc.ir.ops.reduce import softmax
from latentc.ir.ops.row import Array, Attrs, Op, broadcast, need, shaped
from latentc.ir.types import TensorType

_attended = shaped("q [B, H, T, d]", "k [B, H_kv, S, d]", "v [B, H_kv, S, e]", gives="[B, H, T, e]")


def _attention_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (q, k), found = ins[:2], _attended(ins[:3], attrs)
    need(q.shape[1] % k.shape[1] == 0, "{} key heads do not divide {}", k.shape[1], q.shape[1])  # type: ignore[operator]
    need(not attrs["causal"] or q.shape[2] == k.shape[2], "causal attention wants as many queries as keys")
    need(0 <= attrs.get("dropout", 0.0) < 1, "probability {} is outside [0, 1)", attrs.get("dropout"))
    if len(ins) > 3:
        need(ins[3].dtype in ("bool", q.dtype), "mask has dtype {}", ins[3].dtype)
        scores = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        need(broadcast(ins[3].shape, scores) == scores, "mask {} does not broadcast to {}", ins[3], list(scores))
    return found


def attention_scale(q: Any, attrs: Attrs) -> float:
    """The factor of the scores, 1 / sqrt(d) by default; `q` are the queries or their type."""
    return attrs["scale"] if attrs.get("scale") is not None else 1 / math.sqrt(int(q.shape[-1]))


def _attention(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    q, k, v = xs[:3]
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(t, group, axis=1) if group > 1 else t for t in (k, v))
    scores = (q @ k.swapaxes(-1, -2)) * q.dtype.type(attention_scale(q, attrs))
    if attrs["causal"]:
        scores = np.where(np.tri(q.shape[2], dtype=bool), scores, -np.inf)
    if len(xs) > 3:
        scores = np.where(xs[3], scores, -np.inf) if xs[3].dtype == bool else scores + xs[3]
    return [softmax(scores.astype(q.dtype, copy=False), -1) @ v]


def repeated_heads(b: Any, q: Any, *parts: Any) -> tuple[Any, ...]:
    """`parts` [B, H_kv, S, d] with each head repeated for the query heads that it serves: [B, H, S, d]."""
    batch, heads = q.shape[:2]

    def repeated(x: Any) -> Any:
        _, own, rows, size = x.shape
        wide = b.broadcast_to(
            b.reshape(x, shape=(batch, own, 1, rows, size)), q, shape=(batch, own, heads // own, rows, size)
        )
        return b.reshape(wide, shape=(batch, heads, rows, size))

    return tuple(x if x.shape[1] == heads else repeated(x) for x in parts)


def _attention_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    q, k, v = ins[:3]
    tokens = q.shape[2]
    k, v = repeated_heads(b, q, k, v)
    scale = attention_scale(q, attrs)
    scores = b.matmul(q if scale == 1.0 else q * scale, swap(b, k))
    dtype = q.type.dtype
    if dtype in ("f16", "bf16"):  # softmax needs more precision and range
        scores = b.cast(scores, to="f32")
    # A large negative number instead of -inf, so that no backend computes inf - inf.
    if attrs["causal"]:
        scores = scores + b.constant(np.where(np.tri(int(tokens)), 0.0, -1e30), scores.type.dtype)
    if len(ins) > 3:
        mask = ins[3]
        if mask.type.is_float and mask.type.dtype != scores.type.dtype:
            mask = b.cast(mask, to=scores.type.dtype)
        scores = scores + mask if mask.type.is_float else b.where(mask, scores, b.scalar(-1e30, scores))
    p = b.softmax(scores, axis=-1)
    return [b.matmul(p if p.type.dtype == dtype else b.cast(p, to=dtype), v)]


def _attention_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    q, k, v = ins[:3]
    return q.with_shape(q.shape[:3]).count() * int(k.shape[2]) * 2 * (int(q.shape[3]) + int(v.shape[3]))  # type: ignore


_rotated = shaped("x [B, H, T, d]", "cos [T, half]", "sin [T, half]")
_rotated_each = shaped("x [B, H, T, d]", "cos [B, one, T, half]", "sin [B, one, T, half]")


def _rotary_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    each = ins[1].rank == 4
    found, size = (_rotated_each if each else _rotated)(ins, attrs), ins[1].shape[-1] * 2
    need(not each or ins[1].shape[1] == 1, "tables {} of each sample want one row of heads", ins[1])
    need(ins[0].shape[3] == size, "tables of {} do not rotate {}: want half of its channels", ins[1], ins[0])
    return found


def _rotary(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, cos, sin = xs
    even, odd = (x[..., 0::2], x[..., 1::2]) if attrs["interleaved"] else np.split(x, 2, axis=-1)
    a, c = even * cos - odd * sin, odd * cos + even * sin
    return [np.stack([a, c], -1).reshape(x.shape) if attrs["interleaved"] else np.concatenate([a, c], -1)]


def _rotary_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, cos, sin = ins
    *lead, width = x.shape
    if attrs["interleaved"]:
        pairs = b.reshape(x, shape=(*lead, width // 2, 2))
        even, odd = (b.reshape(p, shape=(*lead, width // 2)) for p in b.split(pairs, axis=4, sizes=(1, 1)))
    else:
        even, odd = b.split(x, axis=3, sizes=(width // 2, width // 2))
    rotated = (even * cos - odd * sin, odd * cos + even * sin)
    if not attrs["interleaved"]:
        return [b.concat(*rotated, axis=3)]
    columns = [b.reshape(t, shape=(*lead, width // 2, 1)) for t in rotated]
    return [b.reshape(b.concat(*columns, axis=4), shape=x.shape)]


def timestep_frequencies(attrs: Attrs) -> Array:
    """f64[dim / 2]: from 1 down to 1 / max_period, which is included with `endpoint`."""
    half = attrs["dim"] // 2
    return np.asarray(np.exp(-math.log(attrs["max_period"]) * np.arange(half) / (half - attrs.get("endpoint", False))))


def _timestep_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(ins[0].rank == 1 and ins[0].is_float, "takes float [B], got {}", ins[0])
    least = 4 if attrs.get("endpoint", False) else 2
    need(attrs["dim"] >= least and attrs["dim"] % 2 == 0, "dim {} is not even and at least {}", attrs["dim"], least)
    return [ins[0].with_shape([ins[0].shape[0], attrs["dim"]])]


def _timestep(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    freqs = timestep_frequencies(attrs).astype(xs[0].dtype)
    angle = xs[0][:, None] * freqs
    return [np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)]


def _timestep_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (t,) = ins
    freqs = b.constant(timestep_frequencies(attrs), t.type.dtype)
    angle = b.reshape(t, shape=(t.shape[0], 1)) * freqs
    return [b.concat(b.cos(angle), b.sin(angle), axis=1)]


_ROWS = [
    Op(
        "attention(q, k, v, mask?; causal, scale?, dropout?)",
        "softmax(scale q k^T + mask) v; each key head serves H / H_kv query heads; true in a bool mask means keep; in "
        "training, a share `dropout` of the weights is dropped",
        _attention_infer,
        _attention,
        None,
        _attention_flops,
        _attention_decompose,
        "Vaswani et al. 2017; grouped queries: Ainslie et al. 2023",
    ),
    Op(
        "rotary(x, cos, sin; interleaved)",
        "pairs of channels rotated by the angle of their position; pairs are neighbours (interleaved) or halves; "
        "tables are [T, d / 2], or [B, 1, T, d / 2] if each sample has positions of its own",
        _rotary_infer,
        _rotary,
        flops=3,
        decompose=_rotary_decompose,
        source="Su et al. 2021",
    ),
    Op(
        "timestep_embedding(x; dim, max_period, endpoint?)",
        "cos and sin of t times frequencies that fall geometrically from 1 to 1 / max_period, included with `endpoint`",
        _timestep_infer,
        _timestep,
        None,
        lambda ins, outs, attrs: 3 * outs[0].count(),
        _timestep_decompose,
        "Ho et al. 2020; Dhariwal & Nichol 2021",
    ),
]
OPS = {row.name: row for row in _ROWS}
