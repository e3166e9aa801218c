"""The residual block of U-Nets, conditioned by an embedding, and the self-attention that may follow it.

Symbols: B batch, C channels, E size of the embedding, T positions of the feature map.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.blocks.heads import joined_heads
from latentc.components.blocks.unet.layers import (
    SHAPES,
    Activation,
    Filter,
    Way,
    Weights,
    activated,
    conv,
    group_norm,
    linear,
    resampled,
)
from latentc.components.blocks.unet.transformer import MapTransformer
from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.ir.types import Named, product


class ResidualBlock(Closed):
    """The residual block of a U-Net: GroupNorm, activation and a 3-wide convolution, twice, with a shortcut."""

    order: Literal["norm_first", "conv_first"] = Field(
        "norm_first",
        description="GroupNorm and activation stand before each convolution or after it; then the embedding is added "
        "after the first activation, or scales and shifts the result of the first norm (Phil Wang's "
        "denoising-diffusion-pytorch)",
    )
    groups: int = Field(32, gt=0, le=1_024, description="maximum number of groups of a GroupNorm")
    group_size: int = Field(1, gt=0, le=65_536, description="minimum channels per group")
    eps: float = Field(1e-5, gt=0, description="eps of GroupNorm")
    embedding: Literal["add", "scale_shift"] = Field(
        "scale_shift", description="the embedding is added before the second norm, or scales and shifts its output"
    )
    rescale: bool = Field(False, description="divide the sum with the shortcut by sqrt(2)")
    project: bool = Field(
        False, description="resampling blocks always project their shortcut, even if channels are unchanged"
    )
    resample: Filter = Field(
        "box",
        description="filter of resampling: means and repetition, the same along the last two of three axes (`planes`: "
        "ADM's of volumes), binomial (1 3 3 1), or the weights of a symmetric filter, such as [1, 2, 1]",
    )
    activation: Activation = Field(
        "silu", description="before convolutions and of the embedding; `leaky_relu` has slope 0.2"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the second convolution, in training")
    weights: Weights = Field("torch", description="initialisation of layers")
    heads: int | None = Field(None, gt=0, le=1_024, description="attention heads; null: set by `head_channels`")
    head_channels: int = Field(64, gt=0, le=65_536, description="channels per attention head, if `heads` is null")
    qkv: Literal["parts", "heads", "channels"] = Field(
        "parts", description="order of the query, key and value rows: one after the other, per head, or per channel"
    )
    transformer: MapTransformer | None = Field(
        None, description="attention is a transformer, which also attends to condition tokens (LDM)"
    )

    def head_count(self, channels: Any) -> Any:
        """Heads of an attention over so many channels."""
        return channels // self.head_channels if self.heads is None else self.heads

    def groups_that_do_not_fit(self, channels: int) -> int | None:
        """Groups of a norm of so many channels, if they do not divide them."""
        groups = min(self.groups, channels // self.group_size)
        return groups if not groups or channels % groups else None

    def apply(
        self,
        b: Builder,
        name: str,
        x: Var,
        c: Var | None,
        features: Any,
        attends: bool = False,
        way: Way = "same",
        context: tuple[Var, ...] = (),
    ) -> Var:
        """x [B, C, ...] -> [B, features, ...] under the embedding c [B, E], if any; the attention sees the context."""
        cond = () if c is None else (c,)
        static = {"channels": x.shape[1], "features": features, **({} if c is None else {"embedding": c.shape[1]})}
        context = context if attends and self.transformer is not None else ()
        if attends:
            static["heads"] = self.head_count(features)
        if way != "same":
            static[way] = True
        if context:
            static["context_dim"] = context[0].shape[-1]
        shortcut = int(x.shape[1]) != int(features) or (self.project and way != "same")
        body = _block(self, x.type.rank - 2, way, attends, shortcut, bool(cond))
        return b.sub(name, body, x, *cond, *context, out="x", **static)

    def joined(self, b: Builder, h: Var, x: Var) -> Var:
        """The sum with the shortcut."""
        total: Var = b.add(h, x, out="x")
        return b.mul(total, math.sqrt(0.5), out="x") if self.rescale else total

    def activated(self, b: Builder, x: Var, out: str = "h") -> Var:
        """The activation of x."""
        return activated(b, x, self.activation, out)

    def norm(self, b: Builder, name: str, x: Var) -> Var:
        """A GroupNorm of x."""
        return group_norm(b, name, x, self.groups, self.group_size, self.eps)


@cache
def _block(config: ResidualBlock, axes: int, way: Way, attends: bool, shortcut: bool, embeds: bool) -> BlockBody:
    shapes = {"c": "B embedding"} if embeds else {}
    if attends and config.transformer is not None:
        shapes["context"] = "B L context_dim"

    def built(
        b: Builder,
        x: Var,
        c: Var | None,
        *context: Var,
        channels: int,
        features: int,
        heads: int | None = None,
        **_: Any,
    ) -> Var:
        h = (_norms_first if config.order == "norm_first" else _convolutions_first)(b, config, x, c, features, way)
        x = resampled(b, x, way, config.resample, out="x")
        if shortcut:
            x = conv(b, "skip", x, features, 1, config.weights, out="x")
        x = config.joined(b, h, x)
        if not attends:
            return x
        if config.transformer is not None and context:
            return config.transformer.apply(b, "attention", x, context, heads, config.groups, config.weights)
        return b.sub("attention", _attention(config, axes), x, channels=features, heads=heads)

    if not embeds:

        @module_class("UNetBlock", x=SHAPES[axes], **shapes)
        def plain(b: Builder, x: Var, *context: Var, **static: Any) -> Var:
            """A residual block of x [B, channels, ...]."""
            return built(b, x, None, *context, **static)

        return plain

    @module_class("UNetBlock", x=SHAPES[axes], **shapes)
    def forward(b: Builder, x: Var, c: Var, *context: Var, **static: Any) -> Var:
        """A residual block of x [B, channels, ...], conditioned by c [B, embedding]."""
        return built(b, x, c, *context, **static)

    return forward


def _norms_first(b: Builder, config: ResidualBlock, x: Var, c: Var | None, features: Any, way: Way) -> Var:
    """The branch beside the shortcut; the embedding c enters before or in the second norm, if there is one."""
    h = resampled(b, config.activated(b, config.norm(b, "norm0", x)), way, config.resample)
    h = conv(b, "conv0", h, features, 3, config.weights)
    if c is None or config.embedding == "add":
        h = h if c is None else b.add(h, _shift(b, config, h, c, features), out="h")
        h = config.activated(b, config.norm(b, "norm1", h))
    else:
        h = _modulated(b, config, "norm1", h, c, features)
    h = b.dropout(h, p=config.dropout, out="h") if config.dropout else h
    return conv(b, "conv1", h, features, 3, config.weights, "last")


def _convolutions_first(b: Builder, config: ResidualBlock, x: Var, c: Var | None, features: Any, way: Way) -> Var:
    """The branch beside the shortcut; the embedding c enters after or in the first norm, if there is one."""
    h = conv(b, "conv0", resampled(b, x, way, config.resample), features, 3, config.weights)
    if c is None or config.embedding == "add":
        h = config.activated(b, config.norm(b, "norm0", h))
        h = h if c is None else b.add(h, _shift(b, config, h, c, features), out="h")
    else:
        h = _modulated(b, config, "norm0", h, c, features)
    h = b.dropout(h, p=config.dropout, out="h") if config.dropout else h
    h = conv(b, "conv1", h, features, 3, config.weights)
    return config.activated(b, config.norm(b, "norm1", h))


def _shift(b: Builder, config: ResidualBlock, h: Var, c: Var, features: Any) -> Var:
    """The summand of h: a linear map of the embedding c [B, E]."""
    shift = linear(b, "affine", c, features, config.weights)
    return b.reshape(shift, shape=(c.shape[0], features, *(1,) * (h.type.rank - 2)), out="shift")


def _modulated(b: Builder, config: ResidualBlock, norm: str, h: Var, c: Var, features: Any) -> Var:
    """The activation of the norm of h, which the embedding c [B, E] scales and shifts."""
    ones = (1,) * (h.type.rank - 2)
    modulation = linear(b, "affine", c, 2 * features, config.weights)
    scale, shift = b.split(modulation, axis=1, sizes=(features, features), out="scale shift")
    scale, shift = (b.reshape(v, shape=(c.shape[0], features, *ones), out=v.value.name) for v in (scale, shift))
    return config.activated(b, config.norm(b, norm, h) * (scale + 1.0) + shift)


@cache
def _attention(config: ResidualBlock, axes: int) -> BlockBody:
    @module_class("SelfAttention", x=SHAPES[axes])
    def forward(b: Builder, x: Var, *, channels: int, heads: int) -> Var:
        """Self-attention over the positions of x [B, channels, ...], added to x."""
        batch, _, *space = x.shape
        size, positions = channels // heads, Named(int(product(space)), "T", "positions of x")  # type: ignore[arg-type]
        h = b.reshape(config.norm(b, "norm", x), shape=(batch, channels, positions))
        h = b.transpose(h, perm=(0, 2, 1), out="h")
        qkv = linear(b, "qkv", h, 3 * channels, config.weights, "attention", out="qkv")
        q, k, v = heads_of(b, qkv, config.qkv, heads, size)
        h = b.attention(q, k, v, causal=False, scale=None, out="h")
        h = joined_heads(b, h, channels, out="h")
        h = b.transpose(linear(b, "proj", h, channels, config.weights, "last"), perm=(0, 2, 1))
        return config.joined(b, b.reshape(h, shape=x.shape, out="h"), x)

    return forward


def heads_of(b: Builder, qkv: Var, order: str, heads: Any, size: Any) -> tuple[Var, Var, Var]:
    """q, k and v [B, H, T, size] of qkv [B, T, 3 * H * size]."""
    batch, positions, _ = qkv.shape
    axis = {"parts": 2, "heads": 3, "channels": 4}[order]
    shape = [heads, size]
    shape.insert(axis - 2, 3)
    parts = b.unbind(b.reshape(qkv, shape=(batch, positions, *shape), out="qkv"), axis=axis, out="q k v")
    q, k, v = (b.transpose(part, perm=(0, 2, 1, 3), out=out) for part, out in zip(parts, "qkv", strict=True))
    return q, k, v
