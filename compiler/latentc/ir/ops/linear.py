"""Products with weights: matmul, linear, convolutions and their transpose, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, broadcast, free, need
from latentc.ir.types import Sym, TensorType


def same_dtype(ins: Sequence[TensorType]) -> None:
    need(len({t.dtype for t in ins}) == 1, f"operands have dtypes {', '.join(t.dtype for t in ins)}; cast them to one")


def _matmul_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, y = ins
    need(x.rank >= 2 and y.rank >= 2, "takes matrices (rank 2 or more)")
    need(x.shape[-1] == y.shape[-2], f"inner sizes differ: {x} times {y}")
    same_dtype(ins)
    return [x.with_shape([*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]])]


def swap(b: Any, x: Any) -> Any:
    """x with its last two axes exchanged."""
    rank = x.type.rank
    return b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _matmul_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, y = ins
    g = grads[0]
    return [b.sum_to(b.matmul(g, swap(b, y)), x.type), b.sum_to(b.matmul(swap(b, x), g), y.type)]


def _matmul_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    inner = ins[0].shape[-1]
    return 2 * outs[0].count() * int(inner.factor if isinstance(inner, Sym) else inner)


def _linear_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins[:2]
    need(x.rank > 0, "takes at least one axis")
    need(w.rank == 2 and x.shape[-1] == w.shape[1], f"weight {w} does not take {x}: wants [out, {x.shape[-1]}]")
    need(len(ins) < 3 or ins[2].shape == (w.shape[0],), f"bias is {ins[-1]}; wants [{w.shape[0]}]")
    same_dtype(ins)
    return [x.with_shape([*x.shape[:-1], w.shape[0]])]


def _linear(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    y = xs[0] @ xs[1].T
    return [y + xs[2] if len(xs) > 2 else y]


def _linear_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins[:2]
    flat_g, flat_x = b.flatten_rows(grads[0]), b.flatten_rows(x)
    gx = b.matmul(flat_g, w)
    result = [b.reshape(gx, shape=x.shape) if gx.type.rank != x.type.rank else gx, b.matmul(swap(b, flat_g), flat_x)]
    return result if len(ins) == 2 else [*result, b.sum(flat_g, axes=(0,), keepdims=False)]


def _linear_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 2 * outs[0].count() * int(ins[1].shape[1])  # type: ignore[arg-type]


def _linear_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    if ins[0].type.rank == 1:
        row = b.reshape(ins[0], shape=(1, ins[0].shape[0]))
        y = b.reshape(b.matmul(row, swap(b, ins[1])), shape=(ins[1].shape[0],))
    else:
        y = b.matmul(ins[0], swap(b, ins[1]))
    return [y + ins[2] if len(ins) > 2 else y]


def _conv_size(size: Any, kernel: Any, attrs: Attrs) -> int:
    return int((size + 2 * attrs["padding"] - attrs.get("dilation", 1) * (kernel - 1) - 1) // attrs["stride"] + 1)


def _conv_attrs(attrs: Attrs) -> None:
    need(
        attrs["stride"] > 0 and attrs["padding"] >= 0 and attrs["groups"] > 0 and attrs.get("dilation", 1) > 0,
        "stride, groups and dilation are positive, padding is not negative",
    )


def _conv_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins[:2]
    groups = attrs["groups"]
    _conv_attrs(attrs)
    need(x.rank == 4 and w.rank == 4, f"takes [B, C, H, W] and [O, C/groups, kh, kw], got {x} and {w}")
    need(
        x.shape[1] == w.shape[1] * groups and w.shape[0] % groups == 0,
        f"weight {w} does not take {x.shape[1]} channels in {groups} groups",
    )
    need(len(ins) < 3 or ins[2].shape == (w.shape[0],), f"bias is {ins[-1]}; wants [{w.shape[0]}]")
    same_dtype(ins)
    h, wd = (_conv_size(x.shape[i], w.shape[i], attrs) for i in (2, 3))
    need(h > 0 and wd > 0, f"kernel {w.shape[2]}x{w.shape[3]} does not fit {x}")
    # A patch embedding keeps its grid's written form: `size // patch`.
    stride = attrs["stride"]
    if attrs["padding"] == 0 and stride == w.shape[2] == w.shape[3] and attrs.get("dilation", 1) == 1:
        return [x.with_shape([x.shape[0], w.shape[0], x.shape[2] // w.shape[2], x.shape[3] // w.shape[3]])]  # type: ignore
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


def _kernel_gradient(b: Any, image: Any, signal: Any, kernel: TensorType, attrs: Attrs) -> Any:
    """Gradient of a convolution's kernel, as a convolution of the image with the output's gradient `signal`.

    Stride and dilation change places; the batch becomes the channels that are summed over, group by group.
    """
    groups, dilation = attrs["groups"], attrs.get("dilation", 1)
    batch, channels, *space = image.shape
    inner = channels // groups
    turned = b.transpose(b.reshape(image, shape=(batch, groups, inner, *space)), perm=(2, 1, 0, 3, 4))
    g = b.conv2d(
        b.reshape(turned, shape=(inner, batch * groups, *space)),
        b.transpose(signal, perm=(1, 0, 2, 3)),
        stride=dilation,
        padding=attrs["padding"],
        dilation=attrs["stride"],
        groups=groups,
    )
    g = b.transpose(g, perm=(1, 0, 2, 3))
    for axis in (2, 3):  # rows the forward stride never reached
        if g.shape[axis] != kernel.shape[axis]:
            g = b.slice(g, axis=axis, start=0, stop=int(kernel.shape[axis]))  # type: ignore[arg-type]
    return g


def _conv_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins[:2]
    g = grads[0]
    dilation = attrs.get("dilation", 1)
    rest = [(x.shape[i] + 2 * attrs["padding"] - dilation * (w.shape[i] - 1) - 1) % attrs["stride"] for i in (2, 3)]
    gx = b.conv_transpose2d(
        g,
        w,
        stride=attrs["stride"],
        padding=attrs["padding"],
        output_padding=tuple(int(r) for r in rest),
        dilation=dilation,
        groups=attrs["groups"],
    )
    gw = _kernel_gradient(b, x, g, w.type, attrs)
    return [gx, gw] if len(ins) == 2 else [gx, gw, b.sum(g, axes=(0, 2, 3), keepdims=False)]


def _conv_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 2 * outs[0].count() * ins[1].with_shape(ins[1].shape[1:]).count()


def _conv_transpose_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins
    _conv_attrs(attrs)
    groups, stride, dilation = attrs["groups"], attrs["stride"], attrs.get("dilation", 1)
    need(x.rank == 4 and w.rank == 4 and x.shape[1] == w.shape[0], f"weight {w} does not take {x}")
    need(w.shape[0] % groups == 0, f"weight {w} does not split into {groups} groups")
    same_dtype(ins)
    extra = attrs["output_padding"]
    need(len(extra) == 2 and all(0 <= e < max(stride, dilation) for e in extra), f"output_padding is {extra}")
    size = [
        (x.shape[i] - 1) * stride - 2 * attrs["padding"] + dilation * (w.shape[i] - 1) + 1 + e  # type: ignore
        for i, e in zip((2, 3), extra, strict=True)
    ]
    need(min(size) > 0, f"nothing is left of {x} after the padding")
    return [x.with_shape([x.shape[0], w.shape[1] * groups, *size])]


def _conv_transpose(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, w = xs
    s, p, d, groups = attrs["stride"], attrs["padding"], attrs.get("dilation", 1), attrs["groups"]
    b, c, h, wd = x.shape
    kh, kw = w.shape[2:]
    (eh, ew), inner = attrs["output_padding"], w.shape[1]
    full = np.zeros((b, groups, inner, (h - 1) * s + d * (kh - 1) + 1 + eh, (wd - 1) * s + d * (kw - 1) + 1 + ew))
    full = full.astype(x.dtype)
    grouped = x.reshape(b, groups, c // groups, h, wd)
    kernel = w.reshape(groups, c // groups, inner, kh, kw)
    parts = np.einsum("bgchw,gcokl->bgohwkl", grouped, kernel, optimize=True)
    for i in range(kh):
        for j in range(kw):
            top, left = i * d, j * d
            full[..., top : top + (h - 1) * s + 1 : s, left : left + (wd - 1) * s + 1 : s] += parts[..., i, j]
    full = full.reshape(b, groups * inner, *full.shape[3:])
    return [full[:, :, p : full.shape[2] - p, p : full.shape[3] - p]]


def _conv_transpose_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins
    g = grads[0]
    plain = {k: attrs[k] for k in ("stride", "padding", "groups")} | {"dilation": attrs.get("dilation", 1)}
    gx = b.conv2d(g, w, **plain)
    for axis in (2, 3):
        if gx.shape[axis] != x.shape[axis]:
            gx = b.slice(gx, axis=axis, start=0, stop=int(x.shape[axis]))
    return [gx, _kernel_gradient(b, g, x, w.type, plain)]


def _conv_transpose_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 2 * ins[0].count() * ins[1].with_shape(ins[1].shape[1:]).count()


def _embedding_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    w, index = ins
    need(
        w.rank == 2 and index.dtype in ("i64", "i32"),
        f"takes [rows, width] and integers, got {w} and {index}",
    )
    return [w.with_shape([*index.shape, w.shape[1]])]


def _embedding_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    return [b.scatter_add(b.fill_like(ins[0], 0.0), ins[1], grads[0], axis=0), None]


_ROWS = [
    Op(
        "matmul",
        "matrix product of the last two axes, the others broadcast",
        _matmul_infer,
        lambda xs, a: [xs[0] @ xs[1]],
        _matmul_vjp,
        _matmul_flops,
        operands=(2, 2),
    ),
    Op(
        "linear",
        "x W^T + b with W [out, in]",
        _linear_infer,
        _linear,
        _linear_vjp,
        _linear_flops,
        _linear_decompose,
        operands=(2, 3),
    ),
    Op(
        "conv2d",
        "2-D cross-correlation, NCHW; W [out, in / groups, kh, kw]",
        _conv_infer,
        conv2d,
        _conv_vjp,
        _conv_flops,
        operands=(2, 3),
        attrs="stride padding groups dilation?",
    ),
    Op(
        "conv_transpose2d",
        "the transpose of conv2d; W [in, out / groups, kh, kw]; output_padding (rows, columns) is added at the end",
        _conv_transpose_infer,
        _conv_transpose,
        _conv_transpose_vjp,
        _conv_transpose_flops,
        operands=(2, 2),
        attrs="stride padding output_padding groups dilation?",
    ),
    Op(
        "embedding",
        "rows of a table picked by integers",
        _embedding_infer,
        lambda xs, a: [xs[0][xs[1]]],
        _embedding_vjp,
        free,
        operands=(2, 2),
    ),
]
OPS = {row.name: row for row in _ROWS}
