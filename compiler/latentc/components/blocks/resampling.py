"""Between the stages of a network: half or twice the resolution, on tokens of a square.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from latentc.components.blocks.feature_map import as_map, as_tokens, columns_of
from latentc.components.layers import conv
from latentc.ir.builder import BlockBody, Builder, Var, module_class

Resampling = Literal["pixel_shuffle", "conv"]
"""How stages are joined. `pixel_shuffle`: a 3 x 3 convolution without bias, then 2 x 2 neighbours become channels, or
channels neighbours. `conv`: a 3 x 3 convolution of stride 2, or of the map with each pixel repeated."""


@cache
def downsample(how: Resampling, init: str) -> BlockBody:
    """Tokens f32[B, T, D] in `grid` rows -> f32[B, T / 4, features]."""

    @module_class("Downsample")
    def forward(b: Builder, x: Var, *, dim: int, features: int, grid: int) -> Var:
        """Halves the resolution of tokens in rows."""
        batch, half, columns = x.shape[0], grid // 2, columns_of(x, grid) // 2
        x = as_map(b, x, grid)
        if how == "conv":
            return as_tokens(b, conv(b, "conv", x, features, 3, init, stride=2, out="x"), half * columns)
        x = conv(b, "conv", x, features // 4, 3, init, bias=False, out="x")
        x = b.reshape(x, shape=(batch, features // 4, half, 2, columns, 2))
        return b.reshape(b.transpose(x, perm=(0, 2, 4, 1, 3, 5)), shape=(batch, half * columns, features))

    return forward


@cache
def upsample(how: Resampling, init: str) -> BlockBody:
    """Tokens f32[B, T, D] in `grid` rows -> f32[B, 4 T, features]."""

    @module_class("Upsample")
    def forward(b: Builder, x: Var, *, dim: int, features: int, grid: int) -> Var:
        """Doubles the resolution of tokens in rows."""
        batch, twice, columns = x.shape[0], 2 * grid, columns_of(x, grid)
        x = as_map(b, x, grid)
        if how == "conv":
            x = b.upsample_nearest(x, factor=2, out="x")
            return as_tokens(b, conv(b, "conv", x, features, 3, init, out="x"), twice * (2 * columns))
        x = conv(b, "conv", x, 4 * features, 3, init, bias=False, out="x")
        x = b.reshape(x, shape=(batch, features, 2, 2, grid, columns))
        return b.reshape(b.transpose(x, perm=(0, 4, 2, 5, 3, 1)), shape=(batch, twice * (2 * columns), features))

    return forward
