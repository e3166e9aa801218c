"""Attention of queries to few points of feature maps, each query to points of its own (Deformable DETR).

Zhu et al. 2020, arXiv:2010.04159. A point between pixels is read by bilinear interpolation, which is linear in the map:
the weight of a pixel is the product of two hats, max(0, 1 - distance), one along rows and one along columns. So all
points of a query together are one row of weights over all pixels, and reading them is a product of matrices, which
every engine has, and not a gather.

Symbols: B batch, N queries, H heads, d channels of a head, D width, L maps, P points per map, S pixels of all maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.decoding import Given
from latentc.components.parts import Mixer, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


def pixel_weights(b: Builder, points: Var, weights: Var, rows: Any, columns: Any) -> Var:
    """f32[B, M, rows, columns]: how much each pixel of a map counts for points f32[B, M, P, 2] of these weights.

    A point is (column, row) in pixels, the centre of the first pixel at (0, 0); beyond the map there are zeros. The
    weights f32[B, M, P] are of the points.
    """
    batch, count, each = weights.shape
    x, y = b.split(points, axis=3, sizes=(1, 1), out="x y")

    def hat(at: Var, size: Any, out: str) -> Var:
        cells = b.reshape(b.cast(b.arange(size), to="f32"), shape=(1, 1, 1, size), out="cells")
        return b.relu(1.0 - b.abs(at - cells), out=out)

    along = hat(y, rows, "of_row") * b.reshape(weights, shape=(batch, count, each, 1))
    return b.matmul(b.transpose(along, perm=(0, 1, 3, 2)), hat(x, columns, "of_column"), out="pixels")


def read_points(
    b: Builder, values: Var, points: Sequence[Var], weights: Sequence[Var], sizes: Sequence[tuple[Any, Any]]
) -> Var:
    """f32[B, H, N, d]: the weighted sums of what maps of `sizes` (rows, columns) hold at points f32[B, N, H, P, 2].

    `values` f32[B, H, S, d] are the pixels of all maps, row by row, one map after the other; `points`, in pixels, and
    `weights` f32[B, N, H, P] are of each map. Maps of one size may share an entry: with P points in each of K maps,
    both have an axis K in front of P.
    """
    seen = []
    for at, of, (rows, columns) in zip(points, weights, sizes, strict=True):
        batch, queries, heads, *maps, each = of.shape
        every = queries * heads * (maps[0] if maps else 1)
        flat = b.reshape(at, shape=(batch, every, each, 2)), b.reshape(of, shape=(batch, every, each))
        pixels = pixel_weights(b, *flat, rows, columns)
        total = (maps[0] if maps else 1) * rows * columns
        seen.append(b.reshape(pixels, shape=(batch, queries, heads, total), out="seen"))
    each_pixel = seen[0] if len(seen) == 1 else b.concat(*seen, axis=3, out="seen")
    return b.matmul(b.transpose(each_pixel, perm=(0, 2, 1, 3)), values, out="read")


@module_class("DeformableAttention", x="B T dim", values="B S dim")
def deformable_attention(
    b: Builder, x: Var, values: Var, *, dim: int, heads: int, maps: int, points: int, grid: int, side: int
) -> Var:
    """Each query of x reads points of every feature map, around its own place in a square of queries."""
    batch, head = x.shape[0], dim // heads
    values = split_heads(b, dense(b, "values", values, dim, True, "xavier"), heads, head, "values")
    count = heads * maps * points
    weight = b.param("offsets.weight", f32(2 * count, dim), "zeros")
    bias = b.param("offsets.bias", f32(2 * count), "directions", heads=heads, maps=maps, points=points)
    offsets = b.reshape(b.linear(x, weight, bias), shape=(batch, grid * grid, count, 2), out="offsets")
    # Positions of the queries in pixels: the centres of equal cells.
    index = b.cast(b.arange(grid), to="f32", out="index")
    places = b.op("sub", b.div(b.op("mul", index + 0.5, side), grid), 0.5, out="places")
    shape = (grid, grid, 1)
    column = b.broadcast_to(b.reshape(places, shape=(1, grid, 1)), shape=shape, out="column")
    row = b.broadcast_to(b.reshape(places, shape=(grid, 1, 1)), shape=shape, out="row")
    centres = b.reshape(b.concat(column, row, axis=2), shape=(1, grid * grid, 1, 2), out="centres")
    at = b.reshape(centres + offsets, shape=(batch, grid * grid, heads, maps, points, 2), out="at")
    scores = b.dense("weights", x, count, init="zeros")
    scores = b.reshape(scores, shape=(batch, grid * grid, heads, maps * points), out="scores")
    shares = b.reshape(b.softmax(scores, axis=3), shape=(batch, grid * grid, heads, maps, points), out="shares")
    read = read_points(b, values, [at], [shares], [(side, side)])
    return dense(b, "proj", joined_heads(b, read, dim), dim, True, "xavier", out="x")


@cache
def region_block(mixer: Mixer, dropout: float = 0.0) -> BlockBody:
    """A post-norm block of queries that read feature maps, then each other by the mixer, then work alone (VFMTok).

    `dropout`: of the values they read, and after both layers of the feed-forward.
    """
    norm = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)

    def dropped(b: Builder, h: Var) -> Var:
        return b.dropout(h, p=dropout, out="h") if dropout else h

    @module_class("RegionBlock", x="B T dim", places="1 T dim", values="B S dim")
    def block(
        b: Builder,
        x: Var,
        places: Var,
        values: Var,
        *,
        dim: int,
        heads: int,
        hidden: int,
        maps: int,
        points: int,
        grid: int,
        side: int,
    ) -> Var:
        """Queries read feature maps by deformable attention, then see each other; `places` are their positions."""
        sizes: dict[str, Any] = {"dim": dim, "heads": heads}
        of_maps = {"maps": maps, "points": points, "grid": grid, "side": side}
        read = b.sub("reading", deformable_attention, x + places, values, **sizes, **of_maps, out="read")
        x = norm.apply(b, "norm1", x + dropped(b, read))
        x = norm.apply(b, "norm2", x + mixer.apply(b, "attn", x + places, "xavier", Given(), **sizes)[0])
        h = dropped(b, b.relu(dense(b, "fc1", x, hidden, True, "xavier"), out="h"))
        return norm.apply(b, "norm3", x + dropped(b, dense(b, "fc2", h, dim, True, "xavier")))

    return block
