"""What the networks of pix2pixHD share. Symbols: B batch, C channels, H rows, W columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentc.components.condition import Entry, with_operands
from latentc.ir.builder import Builder, Var, f32, module_class

EPS = 1e-5
"""Added to the variance in instance norms."""


def conv(b: Builder, name: str, x: Var, features: Any, kernel: int, out: str = "h", **how: Any) -> Var:
    """A convolution with a bias; weights start with a standard deviation of 0.02."""
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], kernel, kernel), "normal", std=0.02)
    return b.conv(x, weight, b.param(f"{name}.bias", f32(features), "zeros"), out=out, **how)  # type: ignore[no-any-return]


def reflected_conv(b: Builder, name: str, x: Var, features: Any, kernel: int, out: str = "h") -> Var:
    """A convolution of x [B, C, H, W], padded by reflection so that its sides stay."""
    return conv(b, name, b.reflect_pad(x, size=kernel // 2, out="padded"), features, kernel, out)


def normed(b: Builder, x: Var) -> Var:
    """x normalised per image and channel, without scale and shift."""
    # Not `group_norm` with a group per channel, on which OpenVINO's compiler crashes.
    centred = b.op("sub", x, b.mean(x, axes=(2, 3), keepdims=True, out="mean"), out="centred")
    variance = b.mean(centred * centred, axes=(2, 3), keepdims=True, out="variance")
    return b.mul(centred, b.rsqrt(variance + EPS), out="h")  # type: ignore[no-any-return]


def relu_normed(b: Builder, x: Var) -> Var:
    """A ReLU of x, normalised per image and channel."""
    return b.relu(normed(b, x), out="h")  # type: ignore[no-any-return]


def doubled(b: Builder, name: str, x: Var, features: Any) -> Var:
    """A transposed convolution that doubles the sides of x, normalised, then a ReLU."""
    weight = b.param(f"{name}.weight", f32(x.shape[1], features, 3, 3), "normal", std=0.02)
    bias = b.param(f"{name}.bias", f32(features), "zeros")
    return relu_normed(b, b.conv_transpose(x, weight, bias, stride=2, padding=1, output_padding=1, out="h"))


@module_class("ResnetBlock", x="B dim H W")
def resnet_block(b: Builder, x: Var, *, dim: int) -> Var:
    """A residual block of two convolutions."""
    h = relu_normed(b, reflected_conv(b, "conv1", x, dim, 3))
    return x + normed(b, reflected_conv(b, "conv2", h, dim, 3))


def halved(b: Builder, x: Var) -> Var:
    """Means of 3 x 3 pixels around every second row and column of x; pixels beyond an edge do not count."""
    batch, channels, height, width = x.shape
    window = b.constant(np.ones((1, 1, 3, 3)), "f32", out="window")
    each = b.reshape(x, shape=(batch * channels, 1, height, width), out="each")
    total = b.conv(each, window, stride=2, padding=1, out="total")
    inside = b.full(x, shape=(1, height, width), value=1.0, dtype="f32", out="inside")
    count = b.conv(inside, window, stride=2, padding=1, out="count")
    total = b.reshape(total, shape=(batch, channels, *count.shape[2:]), out="total")
    return b.div(total, count, out="x")  # type: ignore[no-any-return]


def joined_maps(b: Builder, entries: tuple[Entry, ...], operands: tuple[Var, ...], sizes: Any, height: int) -> Var:
    """The maps of all conditions side by side: f32[B, D, H, W]."""
    maps = [entry.map(b, own, sizes, height) for entry, own in with_operands(entries, operands)]
    return b.concat(*maps, axis=1, out="maps") if len(maps) > 1 else maps[0]  # type: ignore[no-any-return]
