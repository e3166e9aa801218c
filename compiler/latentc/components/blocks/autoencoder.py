"""Encoder and decoder of convolutional autoencoders: residual blocks, resampling, attention over pixels.

Symbols: B batch, C channels, Z channels of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from latentc.components import layers
from latentc.ir.builder import BlockBody, Builder, Var, module_class

INIT = "linear_default"


@dataclass(frozen=True)
class Blocks:
    """Shared by the blocks of encoder and decoder."""

    groups: int
    eps: float
    dropout: float
    biases: bool = True
    """Whether the convolutions of residual blocks have biases."""
    shortcut_of: Literal["input", "output"] = "input"
    """Input of the projection in the shortcut of a block that changes the channels."""
    pools: bool = False
    """Whether levels are halved by average pooling, not by a convolution."""
    repeats: bool = False
    """Whether levels are doubled without a convolution."""

    def halved(self, b: Builder, h: Var, features: Any) -> Var:
        """h [B, C, H, W] at half the resolution."""
        if self.pools:
            return b.avg_pool(h, size=2, out="h")
        return layers.halving_conv(b, "down", h, features, INIT, out="h")

    def doubled(self, b: Builder, h: Var, features: Any) -> Var:
        """h [B, C, H, W] at twice the resolution."""
        h = b.upsample_nearest(h, factor=2, out="h")
        return h if self.repeats else layers.conv(b, "up", h, features, 3, INIT, out="h")


@dataclass(frozen=True)
class Half:
    """An encoder or a decoder: channels of its levels over `channels`, from the highest resolution down.

    `count` residual blocks per level, each followed by attention in the levels of `attention`, and `middle` of them at
    the lowest resolution. `input_bias` and `output_kernel` are of its first and its last convolution.
    """

    multipliers: tuple[int, ...]
    count: int
    attention: tuple[int, ...]
    middle_attention: bool
    blocks: Blocks
    middle: int = 2
    input_bias: bool = True
    output_kernel: int = 3

    def entered(self, b: Builder, place: int, h: Var, z: Var) -> Var:
        """h as level number `place` of a decoder of latents z takes it, counted from the lowest resolution."""
        return h


@cache
def encoder(half: Half) -> BlockBody:
    """[B, C, H, W] -> [B, outputs, H / f, W / f], f halved once per level but the last."""
    last = len(half.multipliers) - 1

    @module_class("Encoder", x="B in_channels H W")
    def forward(b: Builder, x: Var, *, in_channels: int, channels: int, outputs: int) -> Var:
        """Encodes images x [B, in_channels, H, W] as feature maps of `outputs` channels."""
        h = layers.conv(b, "conv_in", x, channels, 3, INIT, half.input_bias, out="h")
        for i, multiplier in enumerate(half.multipliers):
            body = _level(half.blocks, half.count, i in half.attention, "Encoder")
            h = b.sub(f"levels.{i}", body, h, **_sizes(h, multiplier * channels), down=i < last)
        return _output(b, half, _middle(b, half, h), outputs)

    return forward


@cache
def decoder(half: Half, features: bool = False) -> BlockBody:
    """[B, Z, h, w] -> [B, outputs, f h, f w], and `features`, which its last convolution maps to them."""
    levels = list(enumerate(half.multipliers))[::-1]

    def last(b: Builder, z: Var, channels: Any) -> Var:
        h = layers.conv(b, "conv_in", z, half.multipliers[-1] * channels, 3, INIT, out="h")
        h = _middle(b, half, h)
        for place, (i, multiplier) in enumerate(levels):
            body = _level(half.blocks, half.count, i in half.attention, "Decoder")
            h = half.entered(b, place, h, z)
            h = b.sub(f"levels.{place}", body, h, **_sizes(h, multiplier * channels), up=i > 0)
        return _activated(b, half, h)

    if features:

        @module_class("Decoder", "with_features", z="B latent H W")
        def with_features(b: Builder, z: Var, *, latent: int, channels: int, outputs: int) -> tuple[Var, Var]:
            """Images of latents z [B, latent, h, w], and the features that its last convolution maps to them."""
            h = last(b, z, channels)
            return layers.conv(b, "conv_out", h, outputs, half.output_kernel, INIT), h

        return with_features

    @module_class("Decoder", z="B latent H W")
    def forward(b: Builder, z: Var, *, latent: int, channels: int, outputs: int) -> Var:
        """Decodes latents z [B, latent, h, w] as images of `outputs` channels."""
        return layers.conv(b, "conv_out", last(b, z, channels), outputs, half.output_kernel, INIT)

    return forward


def _sizes(h: Var, features: Any) -> dict[str, Any]:
    """Static arguments of blocks from h [B, C, H, W] to `features` channels; `shortcut` is 1 if these are not C."""
    return {"channels": h.shape[1], "features": features, "shortcut": int(int(h.shape[1]) != int(features))}


def _middle(b: Builder, half: Half, h: Var) -> Var:
    for i in range(half.middle):
        h = b.sub(f"middle{i + 1}", _residual(half.blocks, False), h, **_sizes(h, h.shape[1]))
        if i == 0 and half.middle_attention:
            h = b.sub("middle_attention", _attention(half.blocks), h, channels=h.shape[1])
    return h


def _activated(b: Builder, half: Half, h: Var) -> Var:
    return b.silu(layers.group_norm(b, "norm_out", h, half.blocks.groups, half.blocks.eps), out="h")


def _output(b: Builder, half: Half, h: Var, outputs: Any) -> Var:
    return layers.conv(b, "conv_out", _activated(b, half, h), outputs, half.output_kernel, INIT)


@cache
def _level(blocks: Blocks, count: int, attends: bool, half: Literal["Encoder", "Decoder"]) -> BlockBody:
    @module_class(f"{'Attention' * attends}{half}Level", h="B channels H W")
    def forward(
        b: Builder, h: Var, *, channels: int, features: int, shortcut: int, down: bool = False, up: bool = False
    ) -> Var:
        """The residual blocks of one resolution, then resampling, if there is any."""
        for j in range(count):
            sizes = {"channels": h.shape[1], "features": features, "shortcut": 0 if j else shortcut}
            h = b.sub(f"blocks.{j}", _residual(blocks, bool(sizes["shortcut"])), h, **sizes)
            if attends:
                h = b.sub(f"attention.{j}", _attention(blocks), h, channels=features)
        if up:
            return blocks.doubled(b, h, features)
        return blocks.halved(b, h, features) if down else h

    return forward


@cache
def _residual(blocks: Blocks, projects: bool) -> BlockBody:
    @module_class("ResidualBlock", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int, shortcut: int) -> Var:
        """GroupNorm, SiLU and a 3 x 3 convolution, twice, with a shortcut."""
        h = b.silu(layers.group_norm(b, "norm1", x, blocks.groups, blocks.eps))
        h = layers.conv(b, "conv1", h, features, 3, INIT, blocks.biases, out="h")
        h = b.silu(layers.group_norm(b, "norm2", h, blocks.groups, blocks.eps))
        h = b.dropout(h, p=blocks.dropout, out="h") if blocks.dropout else h
        h = layers.conv(b, "conv2", h, features, 3, INIT, blocks.biases, out="h")
        if projects:
            of = x if blocks.shortcut_of == "input" else h
            x = layers.conv(b, "shortcut", of, features, 1, INIT, blocks.biases, out="x")
        return h + x

    return forward


@cache
def _attention(blocks: Blocks) -> BlockBody:
    @module_class("PixelAttention", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int) -> Var:
        """Each pixel of x [B, C, H, W] attends to all, with one head."""
        batch, _, rows, columns = x.shape
        h = layers.group_norm(b, "norm", x, blocks.groups, blocks.eps)
        h = b.transpose(b.reshape(h, shape=(batch, channels, rows * columns)), perm=(0, 2, 1), out="h")
        parts: Sequence[Var] = [
            b.reshape(layers.linear(b, name, h, channels, INIT), shape=(batch, 1, rows * columns, channels), out=name)
            for name in ("q", "k", "v")
        ]
        h = b.reshape(b.attention(*parts, causal=False, out="h"), shape=(batch, rows * columns, channels), out="h")
        h = b.transpose(layers.linear(b, "proj", h, channels, INIT), perm=(0, 2, 1), out="h")
        return x + b.reshape(h, shape=(batch, channels, rows, columns), out="h")

    return forward
