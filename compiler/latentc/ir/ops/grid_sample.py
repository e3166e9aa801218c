"""Reading images [B, C, H, W] at points between pixels.

Symbols: B batch, C channels, H and W sides of the image, h and w sides of the grid of points, P = h w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, need, shaped
from latentc.ir.types import TensorType

OUTSIDE = ("zeros", "border", "reflection")
"""Values read by `grid_sample` outside an image: zeros, the nearest pixel, or the image mirrored at its edges."""


def _check_outside(attrs: Attrs) -> None:
    need(attrs["outside"] in OUTSIDE, "outside is {!r}; wants one of {}", attrs["outside"], ", ".join(OUTSIDE))


_infer = shaped("x [B, C, H, W]", "grid [B, h, w, 2]", gives="[B, C, h, w]", checks=[_check_outside])


def _pixels(grid: Array, size: int, outside: str) -> Array:
    """Coordinates from -1 to 1, the outer edges of an axis, in pixels: the centre of the first is 0."""
    at = ((grid + 1) * size - 1) / 2
    if outside == "reflection":
        at = size - np.abs(np.mod(at + 0.5, 2 * size) - size) - 0.5
    return at if outside == "zeros" else np.clip(at, 0, size - 1)


def _evaluate(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, grid = xs
    (batch, _, rows, columns), (_, h, w, _) = x.shape, grid.shape
    across, down = (_pixels(grid[..., i], size, attrs["outside"]) for i, size in enumerate((columns, rows)))
    left, top = np.floor(across), np.floor(down)
    out = np.zeros((batch, x.shape[1], h, w), x.dtype)
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            weight = np.where(inside, (1 - np.abs(down - row)) * (1 - np.abs(across - column)), 0.0)
            i, j = (np.where(inside, place, 0).astype(np.int64) for place in (row, column))
            # Indices on both sides of a slice put the points first: [B, h, w, C].
            read = x[np.arange(batch)[:, None, None], :, i, j]
            out += (np.moveaxis(read, -1, 1) * weight[:, None]).astype(x.dtype)
    return [out]


def _decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    """A product of the image with a matrix: the weight of a pixel is the product of a hat along rows and one along
    columns, max(0, 1 - distance). Exact, and differentiable by image and points, but H W weights per point."""
    x, grid = ins
    (batch, channels, rows, columns), (_, h, w, _) = x.shape, grid.shape
    points, dtype = h * w, x.type.dtype
    across, down = b.split(b.reshape(grid, shape=(batch, points, 2)), axis=2, sizes=(1, 1))

    def hats(at: Any, size: int) -> Any:
        at = ((at + 1.0) * float(size) - 1.0) * 0.5
        if attrs["outside"] == "reflection":
            turns = b.floor((at + 0.5) * (1 / (2 * size)))
            at = float(size) - b.abs(at + 0.5 - turns * float(2 * size) - float(size)) - 0.5
        if attrs["outside"] != "zeros":
            at = b.clamp(at, low=0.0, high=size - 1.0)
        cells = b.constant(np.arange(size, dtype=np.float64).reshape(1, 1, size), dtype)
        return b.relu(1.0 - b.abs(at - cells))

    along, beside = hats(down, int(rows)), hats(across, int(columns))
    weights = b.mul(
        b.reshape(along, shape=(batch, points, rows, 1)), b.reshape(beside, shape=(batch, points, 1, columns))
    )
    weights = b.reshape(weights, shape=(batch, points, rows * columns))
    pixels = b.transpose(b.reshape(x, shape=(batch, channels, rows * columns)), perm=(0, 2, 1))
    read = b.transpose(b.matmul(weights, pixels), perm=(0, 2, 1))
    return [b.reshape(read, shape=(batch, channels, h, w))]


def _flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 8 * outs[0].count()


_ROWS = [
    Op(
        "grid_sample(x, grid; outside)",
        "x [B, C, H, W] read at points [B, h, w, 2] (column, row) by bilinear interpolation, -1 and 1 being the outer "
        "edges of the image; outside are zeros, the nearest pixel (border) or the image mirrored at its edges "
        "(reflection)",
        _infer,
        _evaluate,
        flops=_flops,
        decompose=_decompose,
        source="Jaderberg et al. 2015",
    ),
]
OPS = {row.name: row for row in _ROWS}
