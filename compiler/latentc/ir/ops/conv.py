"""Convolutions over any number of spatial axes, and their transposes.

x is [B, C, *space]; `stride`, `padding` and `dilation` are one number for all spatial axes, or a tuple with one per
axis. Padding is zeros, equally many on both sides of an axis; use `pad` for anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from latentc.ir.ops.linear import same_dtype
from latentc.ir.ops.row import Array, Attrs, Op, OpError, need, per_axis, shaped
from latentc.ir.types import Dim, Sym, TensorType, source_of

_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}


class Geometry(NamedTuple):
    """The attributes of a convolution, one value per spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int


def geometry(attrs: Attrs, axes: int) -> Geometry:
    """Attributes of a convolution over `axes` spatial axes, defaults filled in. Raises OpError if they are invalid."""

    def values(name: str) -> tuple[int, ...]:
        return per_axis(name, attrs.get(name, _DEFAULTS[name]), axes)

    groups = attrs.get("groups", 1)
    need(isinstance(groups, int), "groups is {!r}; wants an integer", groups)
    g = Geometry(values("stride"), values("padding"), values("dilation"), values("output_padding"), groups)
    need(
        min(*g.stride, *g.dilation, groups) > 0 and min(*g.padding, *g.output_padding) >= 0,
        "stride, dilation and groups are positive, padding is not negative",
    )
    return g


def _axes_of(x: TensorType, w: TensorType, weight: str) -> int:
    need(
        x.rank == w.rank and 3 <= x.rank <= 5,
        "takes x [B, C, *space] and a weight [{}, *kernel] with 1 to 3 spatial axes, got {} and {}",
        weight,
        x,
        w,
    )
    return x.rank - 2


def _bias(ins: Sequence[TensorType], channels: Dim) -> None:
    need(len(ins) < 3 or ins[2].shape == (channels,), "bias is {}; wants [{}]", ins[-1], channels)


def _plus(size: Any, offset: int) -> Any:
    return size if offset == 0 else size + offset if offset > 0 else size - -offset


def _conv_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins[:2]
    g = geometry(attrs, _axes_of(x, w, "out, in / groups"))
    need(
        x.shape[1] == w.shape[1] * g.groups and w.shape[0] % g.groups == 0,  # type: ignore[operator]
        "weight {} does not take {} channels in {} groups",
        w,
        x.shape[1],
        g.groups,
    )
    _bias(ins, w.shape[0])
    same_dtype(ins)
    space = [_conv_size(*sizes) for sizes in zip(x.shape[2:], w.shape[2:], *g[:3], strict=True)]
    if min(space) <= 0:
        raise OpError(f"kernel {'x'.join(map(str, map(int, w.shape[2:])))} does not fit {x}")  # type: ignore[arg-type]
    return [x.with_shape([x.shape[0], w.shape[0], *space])]


def _conv_size(size: Any, kernel: Any, stride: Any, padding: int, dilation: int) -> Any:
    """Output size along one axis, as an expression of the input size."""
    if source_of(kernel) == source_of(stride) and padding == 0 and dilation == 1:
        return size // stride  # patches
    size = _plus(size, 2 * int(padding) - int(dilation) * (int(kernel) - 1) - 1 + int(stride))
    return size if stride == 1 else size // stride


_COLUMNS = 1 << 25
"""Elements of the unfolded input that are multiplied at once: 256 MiB in float64."""


def _windows(x: Array, kernel: Sequence[int], g: Geometry) -> Array:
    """[B, C, *kernel, *out] strided view of the padded input."""
    if any(g.padding):
        padded = np.zeros((*x.shape[:2], *(n + 2 * p for n, p in zip(x.shape[2:], g.padding, strict=True))), x.dtype)
        inside: tuple[Any, ...] = tuple(slice(p, p + n) for n, p in zip(x.shape[2:], g.padding, strict=True))
        padded[(..., *inside)] = x
        x = padded
    spans = (d * (k - 1) + 1 for d, k in zip(g.dilation, kernel, strict=True))
    out = [(n - span) // s + 1 for n, span, s in zip(x.shape[2:], spans, g.stride, strict=True)]
    strides = x.strides[2:]
    steps = (n * by for steps in (g.dilation, g.stride) for n, by in zip(strides, steps, strict=True))
    shape = (*x.shape[:2], *kernel, *out)
    return np.lib.stride_tricks.as_strided(x, shape, (*x.strides[:2], *steps), writeable=False)


def conv(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    """One matrix product per group over the unfolded input, a few samples at a time if that is large."""
    x, w = xs[:2]
    axes = x.ndim - 2
    g = geometry(attrs, axes)
    view = _windows(x, w.shape[2:], g)
    batch, taps, out = len(x), math.prod(w.shape[1:]), view.shape[2 + axes :]
    kernel = w.reshape(g.groups, w.shape[0] // g.groups, taps)
    y = np.empty((batch, g.groups, w.shape[0] // g.groups, math.prod(out)), np.result_type(x, w))
    count = max(1, _COLUMNS // max(1, view[:1].size))
    for i in range(0, batch, count):
        part = view[i : i + count]
        np.matmul(kernel, part.reshape(len(part), g.groups, taps, -1), out=y[i : i + count])
    return [_with_bias(y.reshape(batch, w.shape[0], *out), xs)]


def _with_bias(y: Array, xs: Sequence[Array]) -> Array:
    return y + xs[2].reshape(-1, *[1] * (y.ndim - 2)) if len(xs) > 2 else y


def _kernel_gradient(b: Any, image: Any, signal: Any, kernel: TensorType, g: Geometry) -> Any:
    """Gradient of a convolution's kernel, as a convolution of the image with the output's gradient `signal`.

    Stride and dilation swap roles; the batch takes the role of the channels that are summed over, group by group.
    """
    batch, channels, *space = image.shape
    inner, rest = channels // g.groups, range(2, kernel.rank)
    swapped = (1, 0, *rest)
    transposed = b.transpose(
        b.reshape(image, shape=(batch, g.groups, inner, *space)), perm=(2, 1, 0, *(axis + 1 for axis in rest))
    )
    found = b.conv(
        b.reshape(transposed, shape=(inner, batch * g.groups, *space)),
        b.transpose(signal, perm=swapped),
        stride=g.dilation,
        padding=g.padding,
        dilation=g.stride,
        groups=g.groups,
    )
    return _cropped(b, b.transpose(found, perm=swapped), kernel.shape)


def _cropped(b: Any, x: Any, shape: Sequence[Any]) -> Any:
    """x without the trailing rows beyond `shape`, which the stride of the forward pass does not reach."""
    for axis in range(2, len(shape)):
        if x.shape[axis] != shape[axis]:
            x = b.slice(x, axis=axis, start=0, stop=int(shape[axis]))
    return x


def _bias_gradient(b: Any, ins: Any, g: Any) -> list[Any]:
    return [b.sum(g, axes=(0, *range(2, g.type.rank)), keepdims=False)] if len(ins) > 2 else []


def _conv_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins[:2]
    g = geometry(attrs, x.type.rank - 2)
    rest = tuple(
        int((size + 2 * p - d * (k - 1) - 1) % s)
        for size, k, s, p, d in zip(x.shape[2:], w.shape[2:], *g[:3], strict=True)
    )
    gx = b.conv_transpose(grads[0], w, **g._replace(output_padding=rest)._asdict())
    gw = _kernel_gradient(b, x, grads[0], w.type, g)
    return [gx, gw, *_bias_gradient(b, ins, grads[0])]


def _conv_transpose_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = ins[:2]
    g = geometry(attrs, _axes_of(x, w, "in, out / groups"))
    need(x.shape[1] == w.shape[0], "weight {} does not take {}", w, x)
    need(
        not isinstance(w.shape[0], Sym) and w.shape[0] % g.groups == 0, "{} does not split into {} groups", w, g.groups
    )
    same_dtype(ins)
    _bias(ins, w.shape[1] * g.groups)
    need(
        all(e < max(s, d) for e, s, d in zip(g.output_padding, g.stride, g.dilation, strict=True)),
        "output_padding is {}; wants less than the stride or the dilation",
        g.output_padding,
    )
    space = [
        _plus(size if s == 1 else size * s, int(d * (k - 1) + 1 + e - 2 * p - s))
        for size, k, s, p, d, e in zip(x.shape[2:], w.shape[2:], *g[:4], strict=True)
    ]
    need(min(space) > 0, "nothing is left of {} after the padding", x)
    return [x.with_shape([x.shape[0], w.shape[1] * g.groups, *space])]


def _conv_transpose(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, w = xs[:2]
    axes = x.ndim - 2
    g = geometry(attrs, axes)
    batch, channels, *size = x.shape
    inner, kernel = w.shape[1], w.shape[2:]
    reach = [(n - 1) * s + 1 for n, s in zip(size, g.stride, strict=True)]
    whole = [r + d * (k - 1) + e for r, k, d, e in zip(reach, kernel, g.dilation, g.output_padding, strict=True)]
    full = np.zeros((batch, g.groups, inner, *whole), x.dtype)
    grouped = x.reshape(batch, g.groups, channels // g.groups, *size)
    weight = w.reshape(g.groups, channels // g.groups, inner, *kernel)
    columns = grouped.reshape(batch, g.groups, channels // g.groups, -1)
    for tap in np.ndindex(*kernel):
        starts = [i * d for i, d in zip(tap, g.dilation, strict=True)]
        where: tuple[Any, ...] = tuple(slice(i, i + r, s) for i, r, s in zip(starts, reach, g.stride, strict=True))
        own = weight[(..., *tap)].swapaxes(1, 2)
        part = own * columns if own.shape[1:] == (1, 1) else np.matmul(own, columns)
        full[(..., *where)] += part.reshape(batch, g.groups, inner, *size)
    full = full.reshape(batch, g.groups * inner, *whole)
    inside: tuple[Any, ...] = tuple(slice(p, n - p) for p, n in zip(g.padding, whole, strict=True))
    return [_with_bias(full[(..., *inside)], xs)]


def _conv_transpose_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins[:2]
    g = geometry(attrs, x.type.rank - 2)
    forward = {k: v for k, v in g._asdict().items() if k != "output_padding"}
    gx = _cropped(b, b.conv(grads[0], w, **forward), x.shape)
    return [gx, _kernel_gradient(b, grads[0], x, w.type, g), *_bias_gradient(b, ins, grads[0])]


def _flops(x: TensorType, weight: TensorType) -> int:
    """Two for each weight that meets an element of x: the output of conv, the input of conv_transpose."""
    return 2 * x.count() * weight.with_axis(0).count()


_each_shapes = shaped("x [B, C, H, W]", "weight [B, C, k, k]")


def _each_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    found = _each_shapes(ins, attrs)
    need(int(ins[1].shape[2]) % 2 == 1, "{} has no odd kernel", ins[1])  # type: ignore[arg-type]
    return found


def _each(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, weight = xs
    rows, columns = x.shape[2:]
    half = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    out = np.zeros_like(x)
    for i, j in np.ndindex(*weight.shape[2:]):
        out += weight[:, :, i, j, None, None] * padded[:, :, i : i + rows, j : j + columns]
    return [out]


def _each_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    """A sum over the places of the kernel, as no engine has convolutions with a weight per sample."""
    x, weight = ins
    _, _, rows, columns = x.shape
    kernel = int(weight.shape[2])
    for axis in (2, 3):
        x = b.pad(x, axis=axis, before=kernel // 2, after=kernel // 2, value=0.0)
    total = None
    for i in range(kernel):
        band = b.slice(x, axis=2, start=i, stop=i + rows)
        own = b.slice(weight, axis=2, start=i, stop=i + 1)
        for j in range(kernel):
            part = b.slice(own, axis=3, start=j, stop=j + 1) * b.slice(band, axis=3, start=j, stop=j + columns)
            total = part if total is None else total + part
    return [total]


_ROWS = [
    Op(
        "depthwise_each(x, weight)",
        "depthwise cross-correlation of x [B, C, H, W] with a kernel per sample and channel, weight [B, C, k, k], k "
        "odd; zeros around x keep its size",
        _each_infer,
        _each,
        None,
        lambda ins, outs, attrs: 2 * outs[0].count() * int(ins[1].shape[2]) ** 2,  # type: ignore[arg-type]
        _each_decompose,
    ),
    Op(
        "conv(x, weight, bias?; stride?, padding?, dilation?, groups?)",
        "1-D, 2-D or 3-D cross-correlation of x [B, C, *space] with W [out, in / groups, *kernel], and a bias [out]",
        _conv_infer,
        conv,
        _conv_vjp,
        lambda ins, outs, attrs: _flops(outs[0], ins[1]),
    ),
    Op(
        "conv_transpose(x, weight, bias?; stride?, padding?, output_padding?, dilation?, groups?)",
        "the transpose of conv, with W [in, out / groups, *kernel]; output_padding extends the end of each axis",
        _conv_transpose_infer,
        _conv_transpose,
        _conv_transpose_vjp,
        lambda ins, outs, attrs: _flops(ins[0], ins[1]),
    ),
]
OPS = {row.name: row for row in _ROWS}
