"""The two streams of PixelCNN++, of whole maps, of one row, and of one pixel; the methods of networks of pixels.

The stream `u` sees the rows above a pixel, `ul` those and the pixels to its left. A map is f32[B, C, H, W], a row
f32[B, C, 1, W], a cell f32[B, C]. What a row or a cell needs of those before it is kept as few tensors: of the rows
above [R, B, C, 1, W] or the cells above [R, B, C], and of the column to the left [R, B, C, 2], above and beside.

Symbols: B batch, C channels, R inputs of convolutions, W columns, E size of the condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

from latentc.components.backbone import add_method
from latentc.components.condition import Entry, ports_of
from latentc.components.contract import Method, Port
from latentc.components.layers import INITS
from latentc.components.parts import Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.pixelcnn.pixels import Categories, LogisticMixture

NORMED_STD = 0.05
"""Standard deviation of the weights that are normalised, at the start."""
GATED_STD = 0.1
"""That of the outputs of the second convolution of a block, for the first batch."""
KERNELS = {"u": (2, 3), "ul": (2, 2)}
_CLASSES = {"u": "RowResnet", "ul": "CellResnet"}


def doubled_elu(b: Builder, x: Var) -> Var:
    """ELU of x and of -x, concatenated: twice the channels (axis 1)."""
    return b.elu(b.concat(x, b.neg(x), axis=1), out="h")


def weights(
    b: Builder, name: str, channels: Any, inputs: Any, kernel: tuple[int, ...], normed: bool = False, std: float = 1.0
) -> tuple[Var, Var]:
    """Weight [channels, inputs, *kernel] and bias of a convolution; `normed`: see `normed_weight`."""
    kind, args = ("normal", {"std": NORMED_STD}) if normed else INITS["xavier"]
    weight = b.param(f"{name}.weight", f32(channels, inputs, *kernel), kind, **args)
    weight = normed_weight(b, name, weight, 0, std) if normed else weight
    return weight, b.param(f"{name}.bias", f32(channels), "zeros")


def normed_weight(b: Builder, name: str, weight: Var, axis: int, std: float = 1.0) -> Var:
    """A weight times a gain per index of `axis`, over its length (Salimans & Kingma 2016, arXiv:1602.07868).

    Gain and bias start from data: outputs for the first batch have mean 0 and standard deviation `std`, unless it is 0.
    """
    gain = b.param(f"{name}.g", f32(weight.shape[axis]), "ones")
    return b.weight_norm(weight, gain, axis=axis, output_std=std, out="w")


def pointwise(b: Builder, name: str, x: Var, channels: Any, normed: bool = False, bias: bool = True) -> Var:
    """A linear map of the channels of a map, a row or a cell."""
    inputs = x.shape[1]
    if bias:
        weight, *biases = weights(b, name, channels, inputs, (1, 1), normed)
    else:
        kind, args = INITS["xavier"]
        weight, biases = b.param(f"{name}.weight", f32(channels, inputs, 1, 1), kind, **args), []
    if x.type.rank == 2:
        return b.linear(x, b.reshape(weight, shape=(channels, inputs)), *biases)
    return b.conv(x, weight, *biases)


def shifted_conv(
    b: Builder, name: str, x: Var, channels: Any, stream: str, normed: bool, stride: int = 1, std: float = 1.0
) -> Var:
    """A convolution that sees no row below, and in the stream `ul` nothing to the right: of a map [B, C, H, W]."""
    x = b.pad(x, axis=2, before=1, after=0, value=0.0, out="h")
    if stream == "ul":
        x = b.pad(x, axis=3, before=1, after=0, value=0.0, out="h")
    weight, bias = weights(b, name, channels, x.shape[1], KERNELS[stream], normed, std)
    return b.conv(x, weight, bias, stride=stride, padding=(0, 1 if stream == "u" else 0), out="h")


def row_conv(
    b: Builder, name: str, pair: Var, channels: Any, normed: bool, stride: int = 1, std: float = 1.0, out: str = "h"
) -> Var:
    """The same in the stream `u` for one row, given it and the one above: f32[B, C, 2, W]."""
    weight, bias = weights(b, name, channels, pair.shape[1], KERNELS["u"], normed, std)
    return b.conv(pair, weight, bias, stride=stride, padding=(0, 1), out=out)


def cell_conv(b: Builder, name: str, patch: Var, channels: Any, normed: bool, std: float = 1.0) -> Var:
    """The same in the stream `ul` for one cell, given the four it sees: f32[B, C, 2, 2]."""
    batch, inputs = patch.shape[:2]
    weight, bias = weights(b, name, channels, inputs, KERNELS["ul"], normed, std)
    rows = b.reshape(weight, shape=(channels, inputs * 4))
    return b.linear(b.reshape(patch, shape=(batch, inputs * 4)), rows, bias, out="h")


def column(b: Builder, above: Var, x: Var) -> Var:
    """f32[B, C, 2]: a cell and the one above it."""
    batch, channels = x.shape
    shape = (batch, channels, 1)
    return b.concat(b.reshape(above, shape=shape), b.reshape(x, shape=shape), axis=2, out="column")


def patch(b: Builder, left: Var, right: Var) -> Var:
    """f32[B, C, 2, 2] of two columns."""
    shape = (*left.shape, 1)
    return b.concat(b.reshape(left, shape=shape), b.reshape(right, shape=shape), axis=3, out="patch")


def zeros(b: Builder, like: Var, shape: tuple[Any, ...], out: str) -> Var:
    """Zeros of this shape, in which B stands for the batch of `like`."""
    sizes = [size for size in shape if size is not B]
    zero = b.full(like, shape=(prod(int(size) for size in sizes),), value=0.0, dtype="f32", out=out)
    return b.reshape(zero, shape=tuple(like.shape[0] if size is B else size for size in shape), out=out)


def embedded(
    b: Builder, conditions: Iterable[tuple[Entry, tuple[Var, ...]]], width: Any, sizes: dict[str, Any]
) -> tuple[Var, ...]:
    """The sum of the embedded conditions, each with its operands, f32[B, D], or nothing."""
    vectors = [entry.vector(b, f"{entry.name}_embed", own, width, sizes) for entry, own in conditions]
    return (summed(b, "c", vectors),) if vectors else ()


def pixel_methods(
    mb: ModuleBuilder,
    name: str,
    spec: Spec,
    entries: tuple[Entry, ...],
    static: Mapping[str, Any],
    distribution: Categories | LogisticMixture,
    bodies: tuple[BlockBody, BlockBody, BlockBody],
) -> dict[str, Method]:
    """`forward` and `log_prob` of x f32[B, C, H, W], and `draw` of uniform numbers f32[B, H, W, N]; see `pixels`."""
    assert spec.data.shape is not None
    channels, height, wide = spec.data.shape
    x = Port("x", f32(B, channels, height, wide), "state")
    noise = Port("u", f32(B, height, wide, distribution.draws(channels)), "noise")
    of = zip(("forward", "log_prob", "draw"), bodies, (x, x, noise), strict=True)
    return {key: add_method(mb, name, key, body, (port, *ports_of(entries)), static) for key, body, port in of}


def log_prob_of(b: Builder, distribution: Categories | LogisticMixture, params: Var, x: Var) -> Var:
    """The log-probability f32[B] of x f32[B, C, H, W], of which every pixel has params f32[B, F, H, W]."""

    def pixels(x: Var, out: str) -> Var:
        batch, size, height, wide = x.shape
        x = b.reshape(x, shape=(batch, size, height * wide))
        return b.transpose(x, perm=(0, 2, 1), out=out)

    log_p = distribution.log_prob(b, pixels(params, "params"), pixels(x, "pixels"))
    return b.sum(log_p, axes=(1,), keepdims=False, out="log_p")


def _gate(b: Builder, h: Var, c: Sequence[Var], width: Any) -> Var:
    """The residual of a block: half of h, gated by the other half; c f32[B, E] is the condition."""
    for condition in c:
        cond = dense(b, "condition", condition, 2 * width, False, "xavier")
        h = b.add(h, b.reshape(cond, shape=(cond.shape[0], 2 * width, *(1,) * (h.type.rank - 2))), out="h")
    a, gate = b.split(h, axis=1, sizes=(width, width), out="a gate")
    return b.mul(a, b.sigmoid(gate), out="h")


@cache
def map_block(stream: str, skip: bool, cond: bool, normed: bool, dropout: float) -> BlockBody:
    @module_class(_CLASSES[stream])
    def block(b: Builder, x: Var, *others: Var, width: int, beside: int = 0) -> Var:
        """Two convolutions, the second gated; the block is also conditioned on `a`."""
        a, c = others[:skip], others[skip : skip + cond]
        h = shifted_conv(b, "conv_input.conv", doubled_elu(b, x), width, stream, normed)
        for skipped in a:
            h = b.add(h, pointwise(b, "nin_skip.lin_a", doubled_elu(b, skipped), width, normed), out="h")
        h = doubled_elu(b, h)
        h = b.dropout(h, p=dropout, out="h") if dropout else h
        h = shifted_conv(b, "conv_out.conv", h, 2 * width, stream, normed, std=GATED_STD)
        return x + _gate(b, h, c, width)

    return block


@cache
def row_block(skip: bool, cond: bool, normed: bool) -> BlockBody:
    @module_class(_CLASSES["u"], "row")
    def block(
        b: Builder, x: Var, above: Var, above_hidden: Var, *others: Var, width: int, beside: int = 0
    ) -> tuple[Var, Var]:
        """The block for one row, given the row above of x and of what is inside: the row, and what is inside."""
        a, c = others[:skip], others[skip : skip + cond]
        h = row_conv(b, "conv_input.conv", doubled_elu(b, b.concat(above, x, axis=2)), width, normed)
        for skipped in a:
            h = b.add(h, pointwise(b, "nin_skip.lin_a", doubled_elu(b, skipped), width, normed), out="h")
        hidden = h
        h = b.concat(above_hidden, h, axis=2)
        h = row_conv(b, "conv_out.conv", doubled_elu(b, h), 2 * width, normed, std=GATED_STD)
        return x + _gate(b, h, c, width), hidden

    return block


@cache
def cell_block(skip: bool, cond: bool, normed: bool) -> BlockBody:
    @module_class(_CLASSES["ul"], "cell")
    def block(
        b: Builder,
        x: Var,
        above: Var,
        above_hidden: Var,
        left: Var,
        left_hidden: Var,
        *others: Var,
        width: int,
        beside: int = 0,
    ) -> tuple[Var, Var, Var]:
        """The block for one cell, given the cell above and the column to the left: it, and its two columns."""
        a, c = others[:skip], others[skip : skip + cond]
        own = column(b, above, x)
        h = cell_conv(b, "conv_input.conv", doubled_elu(b, patch(b, left, own)), width, normed)
        for skipped in a:
            h = b.add(h, pointwise(b, "nin_skip.lin_a", doubled_elu(b, skipped), width, normed), out="h")
        inside = column(b, above_hidden, h)
        h = doubled_elu(b, patch(b, left_hidden, inside))
        h = cell_conv(b, "conv_out.conv", h, 2 * width, normed, std=GATED_STD)
        return x + _gate(b, h, c, width), own, inside

    return block
