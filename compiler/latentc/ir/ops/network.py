"""Ops of neural networks: products, convolutions, norms, attention, positions, dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.reduce import softmax
from latentc.ir.ops.row import Array, Attrs, Op, broadcast, free, need
from latentc.ir.types import Sym, TensorType


def _matmul_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, y = ins
    need(x.rank >= 2 and y.rank >= 2, "takes matrices (rank 2 or more)")
    need(x.shape[-1] == y.shape[-2], f"inner sizes differ: {x} times {y}")
    need(x.dtype == y.dtype, f"operands have dtypes {x.dtype} and {y.dtype}")
    return [x.with_shape([*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]])]


def _swap(b: Any, x: Any) -> Any:
    rank = x.type.rank
    return b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _matmul_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, y = ins
    g = grads[0]
    return [b.sum_to(b.matmul(g, _swap(b, y)), x.type), b.sum_to(b.matmul(_swap(b, x), g), y.type)]


def _matmul_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    inner = ins[0].shape[-1]
    return 2 * outs[0].count() * int(inner.factor if isinstance(inner, Sym) else inner)


def _linear_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins[:2]
    need(w.rank == 2 and x.shape[-1] == w.shape[1], f"weight {w} does not take {x}: wants [out, {x.shape[-1]}]")
    need(len(ins) < 3 or ins[2].shape == (w.shape[0],), f"bias is {ins[-1]}; wants [{w.shape[0]}]")
    return [x.with_shape([*x.shape[:-1], w.shape[0]])]


def _linear(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    y = xs[0] @ xs[1].T
    return [y + xs[2] if len(xs) > 2 else y]


def _linear_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins[:2]
    g = grads[0]
    flat_g, flat_x = b.flatten_rows(g), b.flatten_rows(x)
    result = [b.matmul(g, w), b.matmul(b.transpose(flat_g, perm=(1, 0)), flat_x)]
    return result if len(ins) == 2 else [*result, b.sum(flat_g, axes=(0,), keepdims=False)]


def _linear_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 2 * outs[0].count() * int(ins[1].shape[1])  # type: ignore[arg-type]


def _linear_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    y = b.matmul(ins[0], b.transpose(ins[1], perm=(1, 0)))
    return [y + ins[2] if len(ins) > 2 else y]


def _conv_size(size: Any, kernel: Any, attrs: Attrs) -> int:
    return int((size + 2 * attrs["padding"] - attrs.get("dilation", 1) * (kernel - 1) - 1) // attrs["stride"] + 1)


def _conv_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins[:2]
    groups = attrs["groups"]
    need(x.rank == 4 and w.rank == 4, f"takes [B, C, H, W] and [O, C/groups, kh, kw], got {x} and {w}")
    need(
        x.shape[1] == w.shape[1] * groups,
        f"weight {w} does not take {x.shape[1]} channels in {groups} groups",
    )
    need(len(ins) < 3 or ins[2].shape == (w.shape[0],), f"bias is {ins[-1]}; wants [{w.shape[0]}]")
    h, wd = (_conv_size(x.shape[i], w.shape[i], attrs) for i in (2, 3))
    need(h > 0 and wd > 0, f"kernel {w.shape[2]}x{w.shape[3]} does not fit {x}")
    # A patch embedding keeps its grid's written form: `size // patch`.
    kernel = w.shape[2]
    if attrs["padding"] == 0 and attrs["stride"] == kernel and attrs.get("dilation", 1) == 1:
        return [x.with_shape([x.shape[0], w.shape[0], x.shape[2] // kernel, x.shape[3] // kernel])]  # type: ignore
    return [x.with_shape([x.shape[0], w.shape[0], h, wd])]


def _windows(x: Array, kh: int, kw: int, attrs: Attrs) -> Array:
    """[B, C, H', W', kh, kw] strided view of the padded input."""
    p, s, d = attrs["padding"], attrs["stride"], attrs.get("dilation", 1)
    x = np.pad(x, [(0, 0), (0, 0), (p, p), (p, p)])
    view = np.lib.stride_tricks.sliding_window_view(x, (d * (kh - 1) + 1, d * (kw - 1) + 1), axis=(2, 3))
    return view[:, :, ::s, ::s, ::d, ::d]


def conv2d(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, w = xs[:2]
    groups = attrs["groups"]
    view = _windows(x, w.shape[2], w.shape[3], attrs)
    b, c, h, wd = view.shape[:4]
    view = view.reshape(b, groups, c // groups, h, wd, w.shape[2], w.shape[3])
    kernel = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    y = np.einsum("bgchwij,gocij->bgohw", view, kernel, optimize=True).reshape(b, w.shape[0], h, wd)
    return [y + xs[2][:, None, None] if len(xs) > 2 else y]


def _conv_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins[:2]
    g = grads[0]
    need(attrs.get("dilation", 1) == 1 and attrs["groups"] == 1, "only plain convolutions have a derivative")
    stride, padding = attrs["stride"], attrs["padding"]
    rest = (x.shape[2] + 2 * padding - w.shape[2]) % stride
    gx = b.conv_transpose2d(g, w, stride=stride, padding=padding, output_padding=rest, groups=1)
    swapped = b.conv2d(
        b.transpose(x, perm=(1, 0, 2, 3)),
        b.transpose(g, perm=(1, 0, 2, 3)),
        stride=1,
        padding=padding,
        dilation=stride,
        groups=1,
    )
    gw = b.transpose(swapped, perm=(1, 0, 2, 3))
    for axis in (2, 3):
        if gw.shape[axis] != w.shape[axis]:
            gw = b.slice(gw, axis=axis, start=0, stop=int(w.shape[axis]))
    return [gx, gw] if len(ins) == 2 else [gx, gw, b.sum(g, axes=(0, 2, 3), keepdims=False)]


def _conv_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 2 * outs[0].count() * ins[1].with_shape(ins[1].shape[1:]).count()


def _conv_transpose_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins
    need(x.rank == 4 and w.rank == 4 and x.shape[1] == w.shape[0], f"weight {w} does not take {x}")
    need(attrs["groups"] == 1, "groups is 1")
    out = [
        (x.shape[i] - 1) * attrs["stride"] - 2 * attrs["padding"] + w.shape[i] + attrs["output_padding"]  # type: ignore
        for i in (2, 3)
    ]
    return [x.with_shape([x.shape[0], w.shape[1], *out])]


def _conv_transpose(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, w = xs
    s, p, extra = attrs["stride"], attrs["padding"], attrs["output_padding"]
    b, _, h, wd = x.shape
    kh, kw = w.shape[2:]
    full = np.zeros((b, w.shape[1], (h - 1) * s + kh + extra, (wd - 1) * s + kw + extra), dtype=x.dtype)
    parts = np.einsum("bchw,cokl->bohwkl", x, w, optimize=True)
    for i in range(kh):
        for j in range(kw):
            full[:, :, i : i + (h - 1) * s + 1 : s, j : j + (wd - 1) * s + 1 : s] += parts[..., i, j]
    return [full[:, :, p : full.shape[2] - p, p : full.shape[3] - p]]


def _conv_transpose_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    _x, w = ins
    g = grads[0]
    return [b.conv2d(g, w, stride=attrs["stride"], padding=attrs["padding"], groups=1), None]


def _embedding_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    w, index = ins
    need(
        w.rank == 2 and index.dtype in ("i64", "i32"),
        f"takes [rows, width] and integers, got {w} and {index}",
    )
    return [w.with_shape([*index.shape, w.shape[1]])]


def _norm_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = ins[0]
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
    need(x.rank >= 3 and x.shape[1] % groups == 0, f"{groups} groups do not divide the channels of {x}")  # type: ignore
    for t in ins[1:]:
        need(t.shape == (x.shape[1],), f"scale or shift is {t}; wants [{x.shape[1]}]")
    return [x]


def _group_norm_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, groups = ins[0], attrs["groups"]
    batch, channels, *spatial = x.shape
    inner = int(np.prod([int(s) for s in spatial])) * (channels // groups)
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


def _attention_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    q, k, v = ins[:3]
    need(q.rank == k.rank == v.rank == 4, "takes q [B, H, T, d], k and v [B, H_kv, S, d]")
    need(q.shape[0] == k.shape[0] == v.shape[0], f"batches differ: {q}, {k}, {v}")
    need(
        k.shape[1] == v.shape[1] and q.shape[1] % k.shape[1] == 0,
        f"{k.shape[1]} key heads do not divide {q.shape[1]}",
    )  # type: ignore
    need(q.shape[3] == k.shape[3] and k.shape[2] == v.shape[2], f"{q} does not attend to {k} and {v}")
    need(not attrs["causal"] or q.shape[2] == k.shape[2], "causal attention wants as many queries as keys")
    if len(ins) > 3:
        need(ins[3].dtype in ("bool", q.dtype), f"mask has dtype {ins[3].dtype}")
        broadcast(ins[3].shape, (q.shape[0], q.shape[1], q.shape[2], k.shape[2]))
    return [q.with_shape([*q.shape[:3], v.shape[3]])]


def _scale(q: Any, attrs: Attrs) -> float:
    return attrs["scale"] if attrs.get("scale") is not None else 1 / math.sqrt(int(q.shape[-1]))


def _attention(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    q, k, v = xs[:3]
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(t, group, axis=1) if group > 1 else t for t in (k, v))
    scores = (q @ k.swapaxes(-1, -2)) * q.dtype.type(_scale(q, attrs))
    if attrs["causal"]:
        scores = np.where(np.tri(q.shape[2], dtype=bool), scores, -np.inf)
    if len(xs) > 3:
        scores = np.where(xs[3], scores, -np.inf) if xs[3].dtype == bool else scores + xs[3]
    return [softmax(scores.astype(q.dtype, copy=False), -1) @ v]


def _attention_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    q, k, v = ins[:3]
    batch, heads, tokens, _ = q.shape
    group = heads // k.shape[1]
    if group > 1:
        k, v = (
            b.reshape(
                b.broadcast_to(
                    b.reshape(t, shape=(batch, t.shape[1], 1, t.shape[2], t.shape[3])),
                    q,
                    shape=(batch, t.shape[1], group, t.shape[2], t.shape[3]),
                ),
                shape=(batch, heads, t.shape[2], t.shape[3]),
            )
            for t in (k, v)
        )
    scores = b.matmul(q * _scale(q, attrs), _swap(b, k))
    if attrs["causal"]:
        scores = scores + b.constant(np.where(np.tri(int(tokens)), 0.0, -1e30))
    if len(ins) > 3:
        mask = ins[3]
        scores = scores + mask if mask.type.is_float else b.where(mask, scores, b.scalar(-1e30, scores))
    return [b.matmul(b.softmax(scores, axis=-1), v)]


def _attention_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    q, k, v = ins[:3]
    return q.with_shape(q.shape[:3]).count() * int(k.shape[2]) * 2 * (int(q.shape[3]) + int(v.shape[3]))  # type: ignore


def _rotary_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, cos, sin = ins
    want = (x.shape[-2], x.shape[-1] // 2)  # type: ignore[operator]
    need(x.rank == 4 and x.shape[-1] % 2 == 0, f"takes [B, H, T, d] with d even, got {x}")  # type: ignore[operator]
    need(cos.shape == want and sin.shape == want, f"tables are {cos} and {sin}; want {list(want)}")
    return [x]


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
    turned = (even * cos - odd * sin, odd * cos + even * sin)
    if not attrs["interleaved"]:
        return [b.concat(*turned, axis=3)]
    columns = [b.reshape(t, shape=(*lead, width // 2, 1)) for t in turned]
    return [b.reshape(b.concat(*columns, axis=4), shape=x.shape)]


def timestep_frequencies(dim: int, max_period: float) -> Array:
    half = dim // 2
    return np.asarray(np.exp(-math.log(max_period) * np.arange(half) / half))


def _timestep_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(ins[0].rank == 1 and ins[0].is_float, f"takes float [B], got {ins[0]}")
    need(attrs["dim"] % 2 == 0, f"dim {attrs['dim']} is odd")
    return [ins[0].with_shape([ins[0].shape[0], attrs["dim"]])]


def _timestep(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    freqs = timestep_frequencies(attrs["dim"], attrs["max_period"]).astype(xs[0].dtype)
    angle = xs[0][:, None] * freqs
    return [np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)]


def _timestep_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    (t,) = ins
    angle = b.reshape(t, shape=(t.shape[0], 1)) * b.constant(timestep_frequencies(attrs["dim"], attrs["max_period"]))
    return [b.concat(b.cos(angle), b.sin(angle), axis=1)]


def _dropout_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    need(0 <= attrs["p"] < 1, f"probability {attrs['p']} is outside [0, 1)")
    return [ins[0]]


_ROWS = [
    Op(
        "matmul",
        "matrix product of the last two axes, the others broadcast",
        _matmul_infer,
        lambda xs, a: [xs[0] @ xs[1]],
        _matmul_vjp,
        _matmul_flops,
    ),
    Op(
        "linear",
        "x W^T + b with W [out, in]",
        _linear_infer,
        _linear,
        _linear_vjp,
        _linear_flops,
        _linear_decompose,
    ),
    Op("conv2d", "2-D cross-correlation, NCHW", _conv_infer, conv2d, _conv_vjp, _conv_flops),
    Op(
        "conv_transpose2d",
        "the transpose of conv2d; W [in, out, kh, kw]",
        _conv_transpose_infer,
        _conv_transpose,
        _conv_transpose_vjp,
        _conv_flops,
    ),
    Op(
        "embedding",
        "rows of a table picked by integers",
        _embedding_infer,
        lambda xs, a: [xs[0][xs[1]]],
        lambda b, ins, outs, grads, attrs: [b.scatter_add(ins[0] * 0.0, ins[1], grads[0], axis=0), None],
        free,
    ),
    Op(
        "layer_norm",
        "(x - mean) / sqrt(var + eps) over the last axis, scaled and shifted where given",
        _norm_infer,
        _layer_norm,
        None,
        lambda ins, outs, attrs: 8 * ins[0].count(),
        _layer_norm_decompose,
        "Ba et al. 2016",
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
    ),
    Op(
        "attention",
        "softmax(scale q k^T + mask) v; each key head serves H / H_kv query heads; a bool mask keeps where true",
        _attention_infer,
        _attention,
        None,
        _attention_flops,
        _attention_decompose,
        "Vaswani et al. 2017; grouped queries: Ainslie et al. 2023",
    ),
    Op(
        "rotary",
        "pairs of channels turned by the angle of their position; pairs are neighbours (interleaved) or halves",
        _rotary_infer,
        _rotary,
        None,
        lambda ins, outs, attrs: 3 * ins[0].count(),
        _rotary_decompose,
        "Su et al. 2021",
    ),
    Op(
        "timestep_embedding",
        "cos and sin of t times frequencies falling geometrically from 1 to 1 / max_period",
        _timestep_infer,
        _timestep,
        None,
        lambda ins, outs, attrs: 3 * outs[0].count(),
        _timestep_decompose,
        "Ho et al. 2020; Dhariwal & Nichol 2021",
    ),
    Op(
        "dropout",
        "in training, zeroes elements with probability p and scales the rest by 1 / (1 - p)",
        _dropout_infer,
        None,
        None,
        free,
        train_only=True,
        differentiable=False,
    ),
]
OPS = {row.name: row for row in _ROWS}
