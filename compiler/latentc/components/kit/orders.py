"""Orders in which a network takes the tokens of a grid. Symbols: B batch, T tokens of a sample."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentc.components.contract import Network
from latentc.ir.builder import Builder, Var

Reading = Literal["raster", "alternating", "z_curve", "subsampled", "spiral_out", "spiral_in", "random"]
"""Orders in which the tokens of a grid follow each other (Esser et al. 2021, arXiv:2012.09841, figure 47)."""


def unreadable(reading: Reading, grid: tuple[int, ...]) -> str | None:
    """The grid that the order needs, if it is not this one."""
    if reading == "raster":
        return None
    if len(grid) != 2:
        return "a grid of rows and columns"
    square, power = grid[0] == grid[1], grid[0] & (grid[0] - 1) == 0
    if reading.startswith("spiral") and not (square and grid[0] % 2 == 0):
        return "a square with an even side"
    if reading == "subsampled" and not (square and power):
        return "a square whose side is a power of 2"
    return None


def reading_order(reading: Reading, rows: int, columns: int) -> NDArray[np.int64]:
    """i64[T]: the cells of a grid, numbered row by row, in an order that `unreadable` has nothing against.

    `alternating`: every second row from right to left. `z_curve`: by the interleaved bits of row and column.
    `subsampled`: every second row and column first, and those of the rest likewise. Spirals begin or end left below the
    middle, first upwards. `random`: always the same permutation, of NumPy's Mersenne Twister seeded with 1.
    """
    cells = np.arange(rows * columns).reshape(rows, columns)
    if reading == "alternating":
        cells[1::2] = cells[1::2, ::-1]
    elif reading == "z_curve":
        row, column = np.divmod(np.arange(rows * columns), columns)
        code = sum(((row >> k & 1) << 2 * k + 1) | ((column >> k & 1) << 2 * k) for k in range(32))
        return np.argsort(code)
    elif reading == "subsampled":
        parts = [cells]
        while parts[0].size > 1:
            parts = [part[i::2, j::2] for part in parts for i in (0, 1) for j in (0, 1)]
        cells = np.stack(parts)
    elif reading.startswith("spiral"):
        inward = _spiral(cells)
        return inward if reading == "spiral_in" else inward[::-1].copy()
    elif reading == "random":
        return np.random.RandomState(1).permutation(rows * columns)
    return cells.reshape(-1)


def in_reading_order(b: Builder, network: Network, tokens: Var) -> Var:
    """Tokens [B, T] of a grid, row by row, in the order in which the network takes them."""
    return (
        tokens
        if network.reading is None
        else b.take(tokens, b.constant(network.reading, "i64", out="order"), axis=1, out="tokens")
    )


def row_by_row(b: Builder, network: Network, tokens: Var) -> Var:
    """Tokens [B, T] of a grid, in the order in which the network takes them, row by row."""
    if network.reading is None:
        return tokens
    return b.take(tokens, b.constant(np.argsort(network.reading), out="places"), axis=1, out="tokens")


def _spiral(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """i64[T]: from the lower right corner of a square up, along its sides, and inwards."""
    turns = []
    while cells.size:
        turns.append(cells[::-1, -1])
        cells = np.rot90(cells[:, :-1], -1)
    return np.concatenate(turns)
