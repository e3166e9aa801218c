"""Learned positions of a square of patches, resized to a square of another side as PyTorch's `interpolate` does it.

Symbols: D width, s and t sides of the squares.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latentc.ir.builder import Builder, Var

Matrix = np.ndarray[Any, Any]


def bicubic_matrix(side: int, wanted: int, offset: float = 0.0, antialias: bool = False) -> Matrix:
    """f64[t, s]: what bicubic interpolation multiplies `side` numbers in a row by to get `wanted` ones.

    A cell is side / (wanted + offset) apart from the next, as if `wanted + offset` were asked for and cut off. With
    `antialias`, a smaller square averages over that many cells. Cells beyond an edge count as those at it without
    `antialias`, and do not count with it.
    """
    step = side / (wanted + offset)
    matrix = np.zeros((wanted, side))
    for row in range(wanted):
        centre = (row + 0.5) * step - 0.5
        if not antialias:
            first = int(np.floor(centre))
            for cell in range(first - 1, first + 3):
                matrix[row, min(max(cell, 0), side - 1)] += _cubic(centre - cell, -0.75)
            continue
        spread = max(step, 1.0)
        low, high = int(centre + 1 - 2 * spread), int(centre + 1 + 2 * spread)
        for cell in range(max(low, 0), min(high, side)):
            matrix[row, cell] = _cubic((cell - centre) / spread, -0.5)
        matrix[row] /= matrix[row].sum()
    return matrix


def _cubic(x: float, a: float) -> float:
    """Keys' kernel (1981) of parameter `a`, 0 beyond 2."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((x - 5) * x + 8) * x * a - 4 * a if x < 2 else 0.0


def resized_positions(
    b: Builder, table: Var, side: int, wanted: int, offset: float = 0.0, antialias: bool = False, out: str = "places"
) -> Var:
    """f32[1, s s, D] as f32[1, t t, D], s = `side` and t = `wanted`; the same if the sides are the same."""
    if side == wanted:
        return table
    width = table.shape[2]
    matrix = b.constant(bicubic_matrix(int(side), int(wanted), offset, antialias), out="resizing")
    rows = b.matmul(matrix, b.reshape(table, shape=(side, side * width)), out="rows")
    rows = b.reshape(rows, shape=(wanted, side, width), out="rows")
    cells = b.matmul(b.reshape(matrix, shape=(1, wanted, side)), rows, out="cells")
    return b.reshape(cells, shape=(1, wanted * wanted, width), out=out)  # type: ignore[no-any-return]


__all__ = ["bicubic_matrix", "resized_positions"]
