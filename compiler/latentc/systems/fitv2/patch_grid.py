"""Places of a padded sequence of patches in the grids of its images.

Symbols: B batch, L patches of a padded sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from latentc.ir.builder import Builder, Var


class Places(NamedTuple):
    """Row and column i64[B, L] of each patch, 0 for padding; 1 for real patches, 0 for padding, f32[B, L]; and the
    number of real patches f32[B, 1].
    """

    row: Var
    column: Var
    real: Var
    number: Var


def places(b: Builder, size: Var, length: Any) -> Places:
    """The places of patches, which fill grids of `size` [B, 2] rows and columns row by row.

    Rows and columns are rounded, and kept between 1 and L.
    """
    sides = b.floor(b.clamp(size, low=1.0, high=float(int(length))) + 0.5, out="sides")
    rows, columns = b.split(sides, axis=1, sizes=(1, 1), out="rows columns")
    count = b.minimum(rows * columns, b.scalar(length, rows), out="count")
    index = b.reshape(b.cast(b.arange(length), to="f32"), shape=(1, length), out="index")
    inside = b.less(index, count, out="inside")
    real = b.cast(inside, to="f32", out="real")
    row = b.floor((index + 0.5) / columns, out="row")
    column = b.op("sub", index, row * columns, out="column")
    row, column = (b.cast(b.mul(place, real), to="i64", out=place.value.name) for place in (row, column))
    return Places(row, column, real, count)
