"""Magnitude-preserving layers and the residual block of EDM2 (Karras et al. 2024, arXiv:2312.02696).

Every layer is scaled so that inputs of unit mean square give outputs of unit mean square: there are no norms with
learned scales, no biases, and weights are normalised (`forced_norm`). Symbols: B batch, C channels, T positions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field

from latentc.components import Closed
from latentc.components.blocks.heads import joined_heads
from latentc.components.blocks.unet.layers import SHAPES, Filter, Way, resampled
from latentc.components.blocks.unet.residual import heads_of
from latentc.components.layers import MP_EPS, mp_linear
from latentc.components.parts import Fraction
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.ir.types import Named, product


def mp_conv(b: Builder, name: str, x: Var, features: Any, kernel: int, out: str = "h") -> Var:
    """A convolution of x [B, C, *space] by an odd `kernel`, without bias."""
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], *(kernel,) * (x.type.rank - 2)), "normal")
    return b.conv(x, b.forced_norm(weight, eps=MP_EPS, out="w"), padding=kernel // 2, out=out)


class MagnitudeBlock(Closed):
    """A residual block of EDM2: the embedding scales channels, sums keep the magnitude of their terms."""

    balance: Fraction = Field(0.3, description="weight of the residual branch in its sum with the shortcut")
    attention_balance: Fraction = Field(0.3, description="weight of attention in its sum with the shortcut")
    head_channels: int = Field(
        64,
        gt=0,
        le=65_536,
        description="minimum channels per attention head; blocks with fewer channels have no attention",
    )
    resample: Filter = Field(
        "box",
        description="resampling filter: mean and nearest (box), binomial (1 3 3 1), or the weights of a symmetric one",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the second convolution, in training")
    clip: float | None = Field(256.0, gt=0, description="bound on the block's output; null: none")

    def apply(
        self, b: Builder, name: str, x: Var, c: Var, features: Any, attends: bool, way: Way, normalizes: bool
    ) -> Var:
        """x [B, C, ...] -> [B, features, ...] under the embedding c [B, E].

        Blocks on the way down normalise pixels (`normalizes`) and convolve the shortcut before the residual branch.
        """
        static = {"channels": x.shape[1], "features": features, "embedding": c.shape[1]}
        attends = attends and int(features) >= self.head_channels
        if attends:
            static["heads"] = features // self.head_channels
        if way != "same":
            static[way] = True
        shortcut = int(x.shape[1]) != int(features)
        body = _block(self, x.type.rank - 2, way, attends, shortcut, normalizes)
        return b.sub(name, body, x, c, out="x", **static)


@cache
def _block(config: MagnitudeBlock, axes: int, way: Way, attends: bool, shortcut: bool, normalizes: bool) -> BlockBody:
    name = "EncoderBlock" if normalizes else "DecoderBlock"

    # What an encoder's block computes on has `features` channels, whether its shortcut projects or not.
    shape = SHAPES[axes] if shortcut or not normalizes else SHAPES[axes].replace("channels", "features")

    @module_class(name, x=shape, c="B embedding")
    def forward(
        b: Builder,
        x: Var,
        c: Var,
        *,
        channels: int,
        features: int,
        embedding: int,
        heads: int | None = None,
        down: bool = False,
        up: bool = False,
    ) -> Var:
        """A residual block of x [B, channels, ...], scaled by c [B, embedding]."""
        x = resampled(b, x, way, config.resample, out="x")
        if shortcut and normalizes:
            x = mp_conv(b, "skip", x, features, 1, out="x")
        if normalizes:
            x = b.pixel_norm(x, axis=1, eps=MP_EPS, out="x")
        h = mp_conv(b, "conv0", b.mp_silu(x), features, 3)
        scale = b.add(mp_linear(b, "affine", c, features) * b.param("gain", f32(1), "zeros"), 1.0, out="scale")
        scale = b.reshape(scale, shape=(c.shape[0], features, *(1,) * axes), out="scale")
        h = b.mp_silu(h * scale, out="h")
        h = b.dropout(h, p=config.dropout, out="h") if config.dropout else h
        h = mp_conv(b, "conv1", h, features, 3)
        if shortcut and not normalizes:
            x = mp_conv(b, "skip", x, features, 1, out="x")
        x = b.mp_sum(x, h, balance=config.balance, out="x")
        if attends:
            x = b.sub("attention", _attention(config, axes), x, channels=features, heads=heads, out="x")
        return x if config.clip is None else b.clamp(x, low=-config.clip, high=config.clip)

    return forward


@cache
def _attention(config: MagnitudeBlock, axes: int) -> BlockBody:
    @module_class("SelfAttention", x=SHAPES[axes])
    def forward(b: Builder, x: Var, *, channels: int, heads: int) -> Var:
        """Cosine attention among the positions of x [B, channels, ...], summed with x."""
        batch, _, *space = x.shape
        size, positions = channels // heads, Named(int(product(space)), "T", "positions of x")  # type: ignore[arg-type]
        h = b.transpose(b.reshape(x, shape=(batch, channels, positions)), perm=(0, 2, 1), out="h")
        qkv = mp_linear(b, "qkv", h, 3 * channels, out="qkv")
        parts = heads_of(b, qkv, "channels", heads, size)
        q, k, v = (b.pixel_norm(part, axis=-1, eps=MP_EPS, out=out) for part, out in zip(parts, "qkv", strict=True))
        h = b.attention(q, k, v, causal=False, scale=None, out="h")
        h = joined_heads(b, h, channels, out="h")
        h = b.transpose(mp_linear(b, "proj", h, channels), perm=(0, 2, 1))
        h = b.reshape(h, shape=x.shape, out="h")
        return b.mp_sum(x, h, balance=config.attention_balance, out="x")

    return forward
