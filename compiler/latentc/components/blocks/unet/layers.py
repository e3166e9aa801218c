"""Layers of U-Nets over one to three spatial axes: convolutions, group norms, resampling.

Symbols: B batch, C channels; `space` stands for the spatial axes.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator

from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class

Weights = Literal["xavier", "torch"]
"""How layers start. `xavier`: Glorot uniform, last layers of a branch scaled by 1e-5 and projections to queries, keys
and values by sqrt(0.2) (DDPM++). `torch`: PyTorch's default, last layers 0 (ADM)."""
Place = Literal["inner", "attention", "last"]


def _symmetric(by: str | tuple[float, ...]) -> str | tuple[float, ...]:
    if isinstance(by, str):
        return by
    if not 2 <= len(by) <= 16:
        raise ValueError(f"a filter needs 2 to 16 weights along an axis, not {len(by)}")
    if by != by[::-1]:
        raise ValueError(f"the filter {list(by)} is not symmetric")
    if sum(by) <= 0:
        raise ValueError(
            f"the filter {list(by)} sums to {sum(by):g}; the sum must be positive, because it is scaled to 1"
        )
    return by


Filter = Annotated[Literal["box", "planes", "binomial"] | tuple[float, ...], AfterValidator(_symmetric)]
"""Resampling filters. `box`: means and repetition. `planes`: the same along the last two of three axes (ADM).
`binomial`: the filter 1 3 3 1. Taps: a filter of these weights along each axis, symmetric and scaled to sum to 1."""
Activation = Literal["silu", "relu", "leaky_relu", "elu"]
Way = Literal["same", "down", "up"]

_GAINS: dict[Place, float] = {"inner": 1.0, "attention": math.sqrt(0.2), "last": 1e-5}
SHAPES = {1: "B channels L", 2: "B channels H W", 3: "B channels D H W"}
"""How classes declare a feature map, by the number of spatial axes."""


def start(weights: Weights, place: Place, fan_in: Any) -> tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]:
    """Initialisers (kind, arguments) of the weight and the bias of a layer."""
    zeros: tuple[str, dict[str, Any]] = ("zeros", {})
    if weights == "xavier":
        return ("xavier_uniform", {} if place == "inner" else {"gain": _GAINS[place]}), zeros
    return (zeros, zeros) if place == "last" else (("linear_default", {"fan_in": fan_in}),) * 2


def linear(
    b: Builder,
    name: str,
    x: Var,
    features: Any,
    weights: Weights,
    place: Place = "inner",
    out: str = "",
    size: Any = None,
) -> Var:
    """x [..., size] -> [..., features]; `size` may give a name to the last axis of x."""
    size = x.shape[-1] if size is None else size
    of_weight, of_bias = start(weights, place, size)
    weight = b.param(f"{name}.weight", f32(features, size), of_weight[0], **of_weight[1])
    return b.linear(x, weight, b.param(f"{name}.bias", f32(features), of_bias[0], **of_bias[1]), out=out)


def conv(
    b: Builder,
    name: str,
    x: Var,
    features: Any,
    kernel: int,
    weights: Weights,
    place: Place = "inner",
    stride: int | tuple[int, ...] = 1,
    out: str = "h",
) -> Var:
    """A convolution of x [B, C, *space] by an odd `kernel` that keeps the space, or any that divides it by `stride`."""
    weight, bias = _kernel(b, name, x, features, kernel, weights, place)
    return b.conv(x, weight, bias, stride=stride, padding=(kernel - 1) // 2, out=out)


def _kernel(
    b: Builder, name: str, x: Var, features: Any, kernel: int, weights: Weights, place: Place
) -> tuple[Var, Var]:
    channels, axes = x.shape[1], x.type.rank - 2
    of_weight, of_bias = start(weights, place, channels * kernel**axes)
    weight = b.param(f"{name}.weight", f32(features, channels, *(kernel,) * axes), of_weight[0], **of_weight[1])
    return weight, b.param(f"{name}.bias", f32(features), of_bias[0], **of_bias[1])


def group_norm(b: Builder, name: str, x: Var, groups: int, group_size: int, eps: float) -> Var:
    """x normalised in `groups` groups of channels; in fewer if they would have less than `group_size` channels each."""
    channels = x.shape[1]
    count = min(groups, channels // group_size)
    params = [b.param(f"{name}.weight", f32(channels), "ones"), b.param(f"{name}.bias", f32(channels), "zeros")]
    return b.group_norm(x, *params, groups=count, eps=eps)


def activated(b: Builder, x: Var, activation: Activation, out: str = "h") -> Var:
    """The activation of x; a leaky ReLU has slope 0.2 below 0 (Song et al. 2021)."""
    if activation == "leaky_relu":
        return b.leaky_relu(x, slope=0.2, out=out)
    return b.op(activation, x, out=out)


def resampled(b: Builder, x: Var, way: Way, by: Filter, out: str = "h") -> Var:
    """x at half (`down`) or twice (`up`) the resolution."""
    if way == "same":
        return x
    if by == "planes":
        batch, channels, depth, *plane = x.shape
        maps = resampled(b, b.reshape(x, shape=(batch, channels * depth, *plane)), way, "box", out=out)
        return b.reshape(maps, shape=(batch, channels, depth, *maps.shape[2:]), out=out)
    if by == "box":
        return b.avg_pool(x, size=2, out=out) if way == "down" else b.upsample_nearest(x, factor=2, out=out)
    taps, channels, axes = taps_of(by), x.shape[1], x.type.rank - 2
    kernel = separable(b, x, taps, 1.0 if way == "down" else 2.0**axes, out=f"{way}_taps")
    if way == "down":
        return b.conv(x, kernel, stride=2, padding=(len(taps) - 1) // 2, groups=channels, out=out)
    cut = (len(taps) - 1) // 2
    if len(taps) % 2 == 0:
        return b.conv_transpose(x, kernel, stride=2, padding=cut, groups=channels, out=out)
    # An odd filter has no centre between two pixels: upfirdn2d puts one more tap before that place than after.
    h = b.conv_transpose(x, kernel, stride=2, padding=cut - 1, groups=channels, out=out)
    for axis in range(2, x.type.rank):
        h = b.slice(h, axis=axis, start=0, stop=2 * x.shape[axis], out=out)
    return h


def strided_conv(b: Builder, name: str, x: Var, features: Any, by: Filter, weights: Weights, out: str = "h") -> Var:
    """A 3-wide convolution of x, then halving by the filter, without padding between them."""
    body = _strided(by, weights, x.type.rank - 2)
    return b.sub(name, body, x, channels=x.shape[1], features=features, out=out)


@cache
def _strided(by: Filter, weights: Weights, axes: int) -> BlockBody:
    @module_class("StridedConv", x=SHAPES[axes])
    def forward(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """A convolution of x [B, channels, ...], then halving of the resolution by a filter."""
        weight, bias = _kernel(b, "conv", x, features, 3, weights, "inner")
        if by in ("box", "planes"):
            return resampled(b, b.conv(x, weight, bias, padding=1), "down", by)
        taps = taps_of(by)
        h = b.conv(x, weight, bias, padding=(len(taps) + 1) // 2)
        return b.conv(h, separable(b, h, taps, 1.0), stride=2, groups=features)

    return forward


def halving_conv(b: Builder, name: str, x: Var, features: Any, weights: Weights, out: str = "h") -> Var:
    """A 3-wide convolution of stride 2 that pads only at the end (DDPM)."""
    padded = x
    for axis in range(2, x.type.rank):
        padded = b.pad(padded, axis=axis, before=0, after=1, value=0.0, out="padded")
    weight, bias = _kernel(b, name, x, features, 3, weights, "inner")
    return b.conv(padded, weight, bias, stride=2, out=out)


def doubling_conv(
    b: Builder, name: str, x: Var, features: Any, weights: Weights, by: Filter = "box", out: str = "h"
) -> Var:
    """A 3-wide convolution of x at twice the resolution, whose values are repeated."""
    x = resampled(b, x, "up", "planes" if by == "planes" else "box", out="x")
    return conv(b, name, x, features, 3, weights, out=out)


def binomial(b: Builder, x: Var, gain: float, side: int = 4) -> Var:
    """The binomial filter of each channel of x: f32[C, 1, side, ...], which sums to `gain`."""
    return separable(b, x, tuple(math.comb(side - 1, k) for k in range(side)), gain)


def taps_of(by: Filter) -> tuple[float, ...]:
    """The weights of a filter along each axis."""
    return (1.0, 3.0, 3.0, 1.0) if isinstance(by, str) else by


def separable(b: Builder, x: Var, taps: tuple[float, ...], gain: float, out: str = "taps") -> Var:
    """The filter of each channel of x with these weights along each axis: f32[C, 1, K, ...], which sums to `gain`."""
    axes, along = x.type.rank - 2, np.array(taps) / sum(taps)
    kernel = along
    for _ in range(axes - 1):
        kernel = np.multiply.outer(kernel, along)
    one = b.constant(gain * kernel[None, None], out=out)
    return b.broadcast_to(one, shape=(x.shape[1], 1, *(len(taps),) * axes), out=out)
