"""VFMTok's decoder of the latents of regions: maps of features, one for images and one like a vision model's.

Symbols: B batch, N regions, D width, M queries, t and s sides of the two maps, F channels of the vision model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from latentc.components.blocks.block import Block
from latentc.components.blocks.feature_map import as_map
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.parts import Weights, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.systems.vfmtok.resizing import resized_positions

OFFSET = 0.1
"""Added to the side that positions are resized to, as in the authors' code."""


@cache
def feature_decoder(config: Block, registers: int, weights: Weights, both: bool) -> BlockBody:
    """f32[B, N, D] -> f32[B, D, t, t], and, if `both`, f32[B, s s, F], which other queries ask for.

    In one causal sequence, the queries follow the regions: a class token, one query per cell, and registers,
    which nothing sees.
    """
    mixer, feed_forward, norm, condition = config.parts()
    block = condition.block(mixer, feed_forward, norm, weights)
    of_input = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)

    def asked(b: Builder, x: Var, queries: Var, name: str, sizes: Mapping[str, Any]) -> Var:
        """Output of the blocks for the queries f32[1, s s, D] of cells after x f32[B, N, D]: f32[B, s s, D]."""
        batch, regions, dim = x.shape
        place = b.param("cls_position", f32(1, 1, dim), "normal", std=0.02)
        before = b.add(b.param("cls_token", f32(1, 1, dim), "normal", std=0.02), place, out="cls")
        after = [b.param("registers", f32(1, registers, dim), "zeros")] if registers else []
        cells = queries.shape[1]
        queries = of_input.apply(b, name, b.concat(before, queries, *after, axis=1, out="queries"))
        queries = b.broadcast_to(queries, x, shape=(batch, queries.shape[1], dim), out="queries")
        h = b.concat(of_input.apply(b, "norm", x), queries, axis=1, out="h")
        for item in items("blocks", sizes["depth"]):
            h = b.sub(item, block, h, dim=dim, **config.own(dim, sizes))
        start = int(regions) + 1
        return b.slice(h, axis=1, start=start, stop=start + int(cells), out="cells")

    def decoded(b: Builder, x: Var, grid: Any, side: Any, features: Any, sizes: Mapping[str, Any]) -> tuple[Var, ...]:
        _, regions, dim = x.shape
        x = b.add(x, b.param("region_positions", f32(1, regions, dim), "normal", std=0.02), out="x")
        places = b.param("positions", f32(1, side * side, dim), "normal", std=0.02)
        resized = resized_positions(b, places, side, grid, OFFSET)
        mask = b.param("mask", f32(1, 1, dim), "normal", std=0.02)
        cells = asked(b, x, b.add(mask, resized, out="queries"), "norm", sizes)
        image = as_map(b, b.reshape(cells, shape=(x.shape[0], grid * grid, dim)), grid, out="image")
        if not both:
            return (image,)
        mask = b.param("feature_mask", f32(1, 1, dim), "normal", std=0.02)
        cells = asked(b, x, b.add(mask, places, out="queries"), "feature_norm", sizes)
        return image, dense(b, "features", cells, features, True, weights, out="like")

    if both:

        @module_class("FeatureDecoder", "with_features", x="B regions dim")
        def with_features(
            b: Builder, x: Var, *, regions: int, dim: int, grid: int, side: int, features: int, **sizes: Any
        ) -> tuple[Var, ...]:
            """The same, and features [B, side * side, F] like those of the vision model."""
            return decoded(b, x, grid, side, features, sizes)

        return with_features

    @module_class("FeatureDecoder", x="B regions dim")
    def forward(
        b: Builder, x: Var, *, regions: int, dim: int, grid: int, side: int, features: int, **sizes: Any
    ) -> Var:
        """The feature map [B, D, grid, grid] that an image is decoded from, of the latents x [B, N, D] of regions."""
        return decoded(b, x, grid, side, features, sizes)[0]

    return forward
