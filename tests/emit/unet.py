"""The U-Net of DDPM++ in EDM's form (Song et al. 2021; Karras et al. 2022), for tests of emission.

Symbols: B batch, C channels, E size of the embedding of time and class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.core import Module
from latentc.ir.types import B


def conv(b: Builder, name: str, x: Var, features: Any, kernel: int, gain: float = 1.0, out: str = "h") -> Var:
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], kernel, kernel), "xavier_uniform", gain=gain)
    return b.conv(x, weight, b.param(f"{name}.bias", f32(features), "zeros"), padding=kernel // 2, out=out)


def linear(b: Builder, name: str, x: Var, features: Any, out: str = "") -> Var:
    weight = b.param(f"{name}.weight", f32(features, x.shape[-1]), "xavier_uniform")
    return b.linear(x, weight, b.param(f"{name}.bias", f32(features), "zeros"), out=out)


def group_norm(b: Builder, name: str, x: Var) -> Var:
    size = f32(x.shape[1])
    scale, shift = b.param(f"{name}.weight", size, "ones"), b.param(f"{name}.bias", size, "zeros")
    return b.group_norm(x, scale, shift, groups=4, eps=1e-6)


@cache
def block(attention: bool, sample: str, joins: bool) -> BlockBody:
    @module_class("UNetBlock", x="B channels H W", c="B embedding")
    def forward(b: Builder, x: Var, c: Var, *, channels: int, features: int, embedding: int) -> Var:
        """A residual block of x [B, channels, H, W], shifted by the condition c."""

        def resampled(h: Var) -> Var:
            if sample == "down":
                return b.avg_pool(h, size=2)
            return b.upsample_nearest(h, factor=2) if sample == "up" else h

        h = conv(b, "conv0", resampled(b.silu(group_norm(b, "norm0", x))), features, 3)
        shift = b.reshape(linear(b, "affine", c, features), shape=(c.shape[0], features, 1, 1), out="shift")
        h = conv(b, "conv1", b.silu(group_norm(b, "norm1", h + shift), out="h"), features, 3, 1e-5)
        if sample or joins:
            x = conv(b, "skip", resampled(x), features, 1)
        x = b.mul(h + x, math.sqrt(0.5), out="x")
        return b.sub("attention", attend, x, channels=features) if attention else x

    return forward


@module_class("AttentionBlock", x="B channels H W")
def attend(b: Builder, x: Var, *, channels: int) -> Var:
    """Attention among the pixels of x [B, channels, H, W], added to it."""
    batch, _, rows, columns = x.shape
    qkv = conv(b, "qkv", group_norm(b, "norm", x), 3 * channels, 1, out="qkv")
    qkv = b.reshape(qkv, shape=(batch, 1, channels, 3, rows * columns), out="qkv")
    parts = zip(b.unbind(qkv, axis=3, out="q k v"), "qkv", strict=True)
    q, k, v = (b.transpose(h, perm=(0, 1, 3, 2), out=n) for h, n in parts)
    h = b.transpose(b.attention(q, k, v, causal=False, scale=None), perm=(0, 1, 3, 2))
    h = conv(b, "proj", b.reshape(h, shape=(batch, channels, rows, columns)), channels, 1, 1e-5)
    return b.mul(h + x, math.sqrt(0.5), out="x")


@module_class("Embedding")
def embed(b: Builder, t: Var, y: Var, *, width: int, embedding: int, classes: int) -> Var:
    """Embeds time and class."""
    c = b.timestep_embedding(t, dim=width, max_period=10000.0, out="c")
    one_hot = b.cast(b.equal(b.reshape(y, shape=(y.shape[0], 1)), b.arange(classes)), to="f32", out="one_hot")
    c = c + linear(b, "map_label", one_hot, width)
    c = b.silu(linear(b, "map_layer0", c, embedding), out="c")
    return b.silu(linear(b, "map_layer1", c, embedding), out="c")


@cache
def network(multipliers: Sequence[int], blocks: int, attention: Sequence[int], side: int) -> BlockBody:
    @module_class("SongUNet", x="B channels H W")
    def forward(b: Builder, x: Var, t: Var, y: Var, *, channels: int, width: int, classes: int) -> Var:
        """Predicts from noisy x at time t for class y."""
        c = b.sub("embedder", embed, t, y, width=width, embedding=4 * width, classes=classes, out="c")

        def apply(name: str, body: BlockBody, x: Var, features: Any) -> Var:
            return b.sub(name, body, x, c, channels=x.shape[1], features=features, embedding=c.shape[1], out="x")

        skips = []
        for level, multiplier in enumerate(multipliers):
            r = side >> level
            if level == 0:
                x = conv(b, f"enc_{r}x{r}_conv", x, width, 3, out="x")
            else:
                x = apply(f"enc_{r}x{r}_down", block(False, "down", True), x, x.shape[1])
            skips.append(x)
            for name in items(f"enc_{r}x{r}", blocks):
                joins = int(x.shape[1]) != multiplier * width
                x = apply(name, block(r in attention, "", joins), x, multiplier * width)
                skips.append(x)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            r = side >> level
            if level == len(multipliers) - 1:
                x = apply(f"dec_{r}x{r}_in0", block(True, "", False), x, x.shape[1])
                x = apply(f"dec_{r}x{r}_in1", block(False, "", False), x, x.shape[1])
            else:
                x = apply(f"dec_{r}x{r}_up", block(False, "up", True), x, x.shape[1])
            for i, name in enumerate(items(f"dec_{r}x{r}", blocks + 1)):
                x = b.concat(x, skips.pop(), axis=1, out="x")
                x = apply(name, block(i == blocks and r in attention, "", True), x, multiplier * width)
        return conv(b, "out_conv", b.silu(group_norm(b, "out_norm", x)), channels, 3, 1e-5)

    return forward


def unet(side: int = 32, width: int = 16, multipliers: Sequence[int] = (2, 2, 2), blocks: int = 4) -> Module:
    """CIFAR's DDPM++ at a width; entry `main` takes x, t and y."""
    mb = ModuleBuilder()
    body = network(tuple(multipliers), blocks, (side // 2,), side)
    static = {"channels": 3, "width": width, "classes": 10}
    mb.entries["main"] = mb.define(body, [f32(B, 3, side, side), f32(B), i64(B)], static)
    return mb.finish()
