"""DenseNets with weight norm, and layers that gate the channels.

Each layer appends features to what it was given. Symbols: B batch, C channels, H and W sides.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.systems.pixelcnn.pixel_streams import NORMED_STD, normed_weight

REDUCTION = 8
"""Channels per hidden unit of a gate."""


def conv(
    b: Builder,
    name: str,
    x: Var,
    inputs: Any,
    features: Any,
    std: float,
    kernel: int = 1,
    stride: int = 1,
    out: str = "h",
) -> Var:
    """A convolution with weight norm of x [B, inputs, H, W], padded so that only the stride changes the sides.

    `std`: standard deviation of its outputs for the first batch.
    """
    weight = b.param(f"{name}.weight", f32(features, inputs, kernel, kernel), "normal", std=NORMED_STD)
    weight = normed_weight(b, name, weight, 0, std)
    bias = b.param(f"{name}.bias", f32(features), "zeros")
    return b.conv(x, weight, bias, stride=stride, padding=kernel // 2, out=out)  # type: ignore[no-any-return]


def doubling(b: Builder, name: str, x: Var, inputs: Any, features: Any, std: float) -> Var:
    """A transposed convolution with weight norm that doubles the sides of x [B, inputs, H, W]."""
    weight = b.param(f"{name}.weight", f32(inputs, features, 3, 3), "normal", std=NORMED_STD)
    weight = normed_weight(b, name, weight, 1, std)
    bias = b.param(f"{name}.bias", f32(features), "zeros")
    return b.conv_transpose(x, weight, bias, stride=2, padding=1, output_padding=1, out="x")  # type: ignore[no-any-return]


@cache
def dense_block(std: float) -> BlockBody:
    @module_class("DenseBlock", x="B channels H W")
    def block(b: Builder, x: Var, *, channels: int, growth: int) -> Var:
        """x and `growth` more channels, after ELU."""
        h = conv(b, "wide", x, channels, 4 * growth, std)
        h = conv(b, "grown", h, 4 * growth, growth, std, 3)
        return b.elu(b.concat(x, h, axis=1), out="x")  # type: ignore[no-any-return]

    return block


@cache
def dense_layer(std: float) -> BlockBody:
    """[B, channels, H, W] -> [B, channels + steps * growth, H, W]."""

    @module_class("DenseLayer", x="B channels H W")
    def layer(b: Builder, x: Var, *, channels: int, growth: int, steps: int) -> Var:
        """Dense blocks, and a gate for each channel from the means of all."""
        for name in items("blocks", steps):
            x = b.sub(name, dense_block(std), x, channels=channels + name.i * growth, growth=growth, out="x")
        grown = channels + steps * growth
        hidden = max(grown // REDUCTION, 1)
        gate = b.mean(x, axes=(2, 3), keepdims=True, out="gate")
        gate = conv(b, "squeeze", gate, grown, hidden, std, out="gate")
        return b.mul(x, b.sigmoid(conv(b, "gate", gate, hidden, grown, std, out="gate")), out="x")  # type: ignore[no-any-return]

    return layer


@cache
def dense_encoder(levels: int, std: float) -> BlockBody:
    """[B, C, H, W] -> [B, features, H / 2^levels, W / 2^levels]; the growth doubles from level to level."""

    @module_class("DenseEncoder", x="B channels H W")
    def encoder(b: Builder, x: Var, *, channels: int, growth: int, steps: int, features: int) -> Var:
        """Dense layers with convolutions between them that halve the sides."""
        for i in range(levels + 1):
            own = growth * 2**i
            x = b.sub(f"layers.{i}", dense_layer(std), x, channels=channels, growth=own, steps=steps, out="x")
            channels = channels + steps * own
            if i < levels:
                x = conv(b, f"down.{i}", x, channels, 2 * channels, std, 3, stride=2, out="x")
                channels = 2 * channels
        return conv(b, "leave", x, channels, features, std)

    return encoder


@cache
def dense_decoder(levels: int, std: float) -> BlockBody:
    """[B, C, H, W] -> [B, features, 2^levels H, 2^levels W]; the growth halves from level to level."""

    @module_class("DenseDecoder", x="B channels H W")
    def decoder(b: Builder, x: Var, *, channels: int, growth: int, steps: int, features: int) -> Var:
        """Dense layers, each before a convolution that doubles the sides."""
        for i in range(levels):
            own = growth // 2**i
            x = b.sub(f"layers.{i}", dense_layer(std), x, channels=channels, growth=own, steps=steps, out="x")
            channels = channels + steps * own
            x = doubling(b, f"up.{i}", x, channels, channels // 2, std)
            channels = channels // 2
        return conv(b, "leave", x, channels, features, std, 3)

    return decoder


@cache
def dense_network(std: float) -> BlockBody:
    """[B, C, H, W] -> [B, features, H, W]."""

    @module_class("DenseNetwork", x="B channels H W")
    def network(b: Builder, x: Var, *, channels: int, growth: int, steps: int, layers: int, features: int) -> Var:
        """Dense layers at one resolution."""
        for name in items("layers", layers):
            own = channels + name.i * (steps * growth)
            x = b.sub(name, dense_layer(std), x, channels=own, growth=growth, steps=steps, out="x")
        return conv(b, "leave", x, channels + layers * (steps * growth), features, std)

    return network
