"""DenseNets with weight norm, and layers that gate the channels.

Each layer appends features to what it was given. Symbols: B batch, C channels, H and W sides.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.systems.pixelcnn.pixel_streams import NORMED_STD, normed_weight

OUTPUT_STD = 0.01
"""Standard deviation of the outputs of a convolution, for the first batch."""
REDUCTION = 8
"""Channels per hidden unit of a gate."""


def conv(b: Builder, name: str, x: Var, features: Any, kernel: int = 1, stride: int = 1, out: str = "h") -> Var:
    """A convolution with weight norm, padded so that only the stride changes the sides."""
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], kernel, kernel), "normal", std=NORMED_STD)
    weight = normed_weight(b, name, weight, 0, OUTPUT_STD)
    bias = b.param(f"{name}.bias", f32(features), "zeros")
    return b.conv(x, weight, bias, stride=stride, padding=kernel // 2, out=out)


def doubling(b: Builder, name: str, x: Var, features: Any) -> Var:
    """A transposed convolution with weight norm that doubles the sides."""
    weight = b.param(f"{name}.weight", f32(x.shape[1], features, 3, 3), "normal", std=NORMED_STD)
    weight = normed_weight(b, name, weight, 1, OUTPUT_STD)
    bias = b.param(f"{name}.bias", f32(features), "zeros")
    return b.conv_transpose(x, weight, bias, stride=2, padding=1, output_padding=1, out="x")


@module_class("DenseBlock", x="B channels H W")
def dense_block(b: Builder, x: Var, *, channels: int, growth: int) -> Var:
    """x and `growth` more channels, after ELU."""
    h = conv(b, "wide", x, 4 * growth)
    h = conv(b, "grown", h, growth, 3)
    return b.elu(b.concat(x, h, axis=1), out="x")


@cache
def dense_layer(steps: int) -> BlockBody:
    """[B, C, H, W] -> [B, C + steps * growth, H, W]."""

    @module_class("DenseLayer", x="B channels H W")
    def layer(b: Builder, x: Var, *, channels: int, growth: int) -> Var:
        """Dense blocks, and a gate for each channel from the means of all."""
        for name in items("blocks", steps):
            x = b.sub(name, dense_block, x, channels=channels + name.i * growth, growth=growth, out="x")
        gate = b.mean(x, axes=(2, 3), keepdims=True, out="gate")
        gate = conv(b, "squeeze", gate, max(x.shape[1] // REDUCTION, 1), out="gate")
        return b.mul(x, b.sigmoid(conv(b, "gate", gate, x.shape[1], out="gate")), out="x")

    return layer


@cache
def dense_encoder(levels: int, steps: int) -> BlockBody:
    """[B, C, H, W] -> [B, features, H / 2^levels, W / 2^levels]; the growth doubles from level to level."""

    @module_class("DenseEncoder", x="B channels H W")
    def encoder(b: Builder, x: Var, *, channels: int, growth: int, features: int) -> Var:
        """Dense layers with convolutions between them that halve the sides."""
        for i in range(levels + 1):
            x = b.sub(f"layers.{i}", dense_layer(steps), x, channels=x.shape[1], growth=growth * 2**i, out="x")
            if i < levels:
                x = conv(b, f"down.{i}", x, 2 * x.shape[1], 3, stride=2, out="x")
        return conv(b, "leave", x, features)

    return encoder


@cache
def dense_decoder(levels: int, steps: int) -> BlockBody:
    """[B, C, H, W] -> [B, features, 2^levels H, 2^levels W]; the growth halves from level to level."""

    @module_class("DenseDecoder", x="B channels H W")
    def decoder(b: Builder, x: Var, *, channels: int, growth: int, features: int) -> Var:
        """Dense layers, each before a convolution that doubles the sides."""
        for i in range(levels):
            x = b.sub(f"layers.{i}", dense_layer(steps), x, channels=x.shape[1], growth=growth // 2**i, out="x")
            x = doubling(b, f"up.{i}", x, x.shape[1] // 2)
        return conv(b, "leave", x, features, 3)

    return decoder


@cache
def dense_network(layers: int, steps: int) -> BlockBody:
    """[B, C, H, W] -> [B, features, H, W]."""

    @module_class("DenseNetwork", x="B channels H W")
    def network(b: Builder, x: Var, *, channels: int, growth: int, features: int) -> Var:
        """Dense layers at one resolution."""
        for i in range(layers):
            x = b.sub(f"layers.{i}", dense_layer(steps), x, channels=x.shape[1], growth=growth, out="x")
        return conv(b, "leave", x, features)

    return network
