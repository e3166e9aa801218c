"""Blocks of DC-AE: residual convolutions, multi-scale linear attention, gated convolutions, resampling with shortcuts.

Symbols: B batch, C channels, H and W rows and columns, h and w those of half the resolution, d channels of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from latentc.components import layers
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class

INIT = "linear_default"
EPS = 1e-5
"""Added to the mean square in norms."""
TINY = 1e-15
"""Added to what linear attention divides by."""


def channel_norm(b: Builder, name: str, x: Var) -> Var:
    """x [B, C, H, W] by the root mean square over its channels, scaled and shifted per channel."""
    channels = x.shape[1]
    scale, shift = b.param(f"{name}.weight", f32(channels), "ones"), b.param(f"{name}.bias", f32(channels), "zeros")
    h = b.rms_norm(b.transpose(x, perm=(0, 2, 3, 1)), scale, eps=EPS)
    return b.transpose(h + shift, perm=(0, 3, 1, 2), out="h")


def unshuffled(b: Builder, x: Var, out: str = "x") -> Var:
    """f32[B, C, H, W] -> f32[B, 4 C, h, w]: squares of 2 x 2 pixels as channels, those of a channel in a row."""
    batch, channels, height, width = x.shape
    x = b.reshape(x, shape=(batch, channels, height // 2, 2, width // 2, 2))
    x = b.transpose(x, perm=(0, 1, 3, 5, 2, 4))
    return b.reshape(x, shape=(batch, 4 * channels, height // 2, width // 2), out=out)


def shuffled(b: Builder, x: Var, out: str = "x") -> Var:
    """f32[B, 4 C, h, w] -> f32[B, C, H, W]: the inverse of `unshuffled`."""
    batch, channels, height, width = x.shape
    x = b.reshape(x, shape=(batch, channels // 4, 2, 2, height, width))
    x = b.transpose(x, perm=(0, 1, 4, 2, 5, 3))
    return b.reshape(x, shape=(batch, channels // 4, 2 * height, 2 * width), out=out)


def averaged(b: Builder, x: Var, channels: int, out: str = "shortcut") -> Var:
    """x [B, C, H, W] with that many channels, the means of groups of consecutive ones."""
    batch, old, height, width = x.shape
    x = b.reshape(x, shape=(batch, channels, old // channels, height, width))
    return b.mean(x, axes=(2,), keepdims=False, out=out)


def repeated(b: Builder, x: Var, channels: int, out: str = "shortcut") -> Var:
    """x [B, C, H, W] with that many channels, each a copy; copies of a channel are consecutive."""
    batch, old, height, width = x.shape
    wide = b.reshape(x, shape=(batch, old, 1, height, width))
    wide = b.broadcast_to(wide, x, shape=(batch, old, channels // old, height, width))
    return b.reshape(wide, shape=(batch, channels, height, width), out=out)


Resampling = Literal["shuffle", "conv"]


@cache
def down(resampling: Resampling, shortcut: bool = True) -> BlockBody:
    @module_class("Down", x="B in_channels H W")
    def halved(b: Builder, x: Var, *, in_channels: int, channels: int) -> Var:
        """Halves the resolution of x [B, in_channels, H, W], which becomes [B, channels, h, w]."""
        if resampling == "shuffle":
            h = unshuffled(b, layers.conv(b, "conv", x, channels // 4, 3, INIT))
        else:
            h = layers.conv(b, "conv", x, channels, 3, INIT, stride=2)
        return h + averaged(b, unshuffled(b, x), channels) if shortcut else h

    return halved


@cache
def up(resampling: Resampling, shortcut: bool = True) -> BlockBody:
    @module_class("Up")
    def doubled(b: Builder, x: Var, *, channels: int) -> Var:
        """Doubles the resolution of x [B, C, h, w], which becomes [B, channels, H, W]."""
        if resampling == "shuffle":
            h = shuffled(b, layers.conv(b, "conv", x, 4 * channels, 3, INIT))
        else:
            h = layers.conv(b, "conv", b.upsample_nearest(x, factor=2, out="h"), channels, 3, INIT)
        return h + shuffled(b, repeated(b, x, 4 * channels)) if shortcut else h

    return doubled


@cache
def residual(batch_norm: bool) -> BlockBody:
    """A residual block with SiLU and a norm over channels, or with ReLU and a batch norm."""

    @module_class("NormedResBlock" if batch_norm else "ResBlock")
    def block(b: Builder, x: Var, *, channels: int) -> Var:
        """x [B, C, H, W] plus two convolutions of it."""
        h = layers.conv(b, "conv1", x, channels, 3, INIT)
        h = b.relu(h, out="h") if batch_norm else b.silu(h, out="h")
        h = layers.conv(b, "conv2", h, channels, 3, INIT, bias=False)
        return x + (layers.batch_norm(b, "norm", h, True, EPS) if batch_norm else channel_norm(b, "norm", h))

    return block


def gated_conv(b: Builder, x: Var, channels: int, hidden: int) -> Var:
    """x [B, C, H, W] as [B, channels, H, W] by a linear map, a depthwise convolution and a gate (GLUMBConv)."""
    h = b.silu(layers.conv(b, "conv_inverted", x, 2 * hidden, 1, INIT), out="h")
    h = layers.depthwise(b, "conv_depth", h, 3, INIT, out="h")
    h, gate = b.split(h, axis=1, sizes=(hidden, hidden), out="h gate")
    return layers.conv(b, "conv_point", h * b.silu(gate), channels, 1, INIT, bias=False, out="h")


@cache
def attention(scales: tuple[int, ...]) -> BlockBody:
    """Multi-scale linear attention (EfficientViT, Cai et al. 2022, arXiv:2205.14756), by the kernel of each scale."""

    @module_class("MultiScaleAttention")
    def mixed(b: Builder, x: Var, *, channels: int, head_width: int) -> Var:
        """ReLU linear attention among the pixels of x [B, C, H, W], also of queries, keys and values of windows."""
        batch, _, height, width = x.shape
        inner, pixels = channels // head_width * head_width, height * width
        qkv = layers.conv(b, "qkv", x, 3 * inner, 1, INIT, bias=False, out="qkv")
        every = [qkv]
        for i, kernel in enumerate(scales):
            depth = b.param(f"scales.{i}.depth.weight", f32(3 * inner, 1, kernel, kernel), INIT, fan_in=kernel**2)
            h = b.conv(qkv, depth, padding=kernel // 2, groups=3 * inner, out="h")
            point = b.param(f"scales.{i}.point.weight", f32(3 * inner, head_width, 1, 1), INIT, fan_in=head_width)
            every.append(b.conv(h, point, groups=3 * (inner // head_width), out="h"))
        total = inner * (1 + len(scales))
        qkv = b.concat(*every, axis=1, out="qkv") if scales else qkv
        qkv = b.reshape(qkv, shape=(batch, total // head_width, 3 * head_width, pixels), out="qkv")
        q, k, v = b.split(qkv, axis=2, sizes=(head_width,) * 3, out="q k v")
        # Means over the pixels, not sums: they stay small in half precision.
        q, k = b.relu(q, out="q"), b.op("div", b.relu(k), pixels, out="k")
        memory = b.matmul(v, b.transpose(k, perm=(0, 1, 3, 2)), out="memory")
        keys = b.transpose(b.sum(k, axes=(3,), keepdims=True), perm=(0, 1, 3, 2), out="keys")
        h = b.op("div", b.matmul(memory, q), b.matmul(keys, q) + TINY, out="h")
        h = b.reshape(h, shape=(batch, total, height, width), out="h")
        h = layers.conv(b, "proj", h, channels, 1, INIT, bias=False, out="h")
        return x + channel_norm(b, "norm", h)

    return mixed


@cache
def attention_block(scales: tuple[int, ...]) -> BlockBody:
    @module_class("EfficientViTBlock")
    def block(b: Builder, x: Var, *, channels: int, head_width: int) -> Var:
        """Attention among the pixels of x [B, C, H, W], then gated convolutions."""
        x = b.sub("attn", attention(scales), x, channels=channels, head_width=head_width)
        return b.sub("conv_out", _feed_forward, x, channels=channels)

    return block


@module_class("GatedConv")
def _feed_forward(b: Builder, x: Var, *, channels: int) -> Var:
    """x [B, C, H, W] plus gated convolutions of it."""
    return x + channel_norm(b, "norm", gated_conv(b, x, channels, 4 * channels))
