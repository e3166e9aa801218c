"""Images resized by bicubic interpolation.

Symbols: B batch, C channels, s and t sides of the squares.
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
                matrix[row, min(max(cell, 0), side - 1)] += cubic(centre - cell, -0.75)
            continue
        spread = max(step, 1.0)
        low, high = int(centre + 1 - 2 * spread), int(centre + 1 + 2 * spread)
        for cell in range(max(low, 0), min(high, side)):
            matrix[row, cell] = cubic((cell - centre) / spread, -0.5)
        matrix[row] /= matrix[row].sum()
    return matrix


def cubic(x: float, a: float) -> float:
    """Keys' kernel (1981) of parameter `a`, 0 beyond 2."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((x - 5) * x + 8) * x * a - 4 * a if x < 2 else 0.0


def scaled_image(b: Builder, x: Var, wanted: int, how: str) -> Var:
    """x f32[B, C, s, s] as f32[B, C, t, t], t = `wanted`, by bicubic interpolation, `antialiased` or plain."""
    side = int(x.shape[3])
    if side == int(wanted):
        return x
    if how != "antialiased":
        return b.resize(x, size=(wanted, wanted), mode="bicubic", out="x")
    matrix = b.constant(bicubic_matrix(side, int(wanted), antialias=True), out="scaling")
    rows = b.matmul(matrix, x, out="rows")
    return b.matmul(rows, b.transpose(matrix, perm=(1, 0)), out="x")
