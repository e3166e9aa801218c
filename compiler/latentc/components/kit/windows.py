"""Windows of a grid of tokens, for networks that see only so many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from latentc.components.contract import Method
from latentc.ir.builder import Var


def cells(grid: Sequence[int], window: Sequence[int], row: int, column: int) -> NDArray[np.int64]:
    """i64[W]: the cells of the grid, row by row, that a window shows whose first one is at this row and column."""
    rows, columns = np.arange(row, row + window[0]), np.arange(column, column + window[1])
    found: NDArray[np.int64] = (rows[:, None] * grid[1] + columns).reshape(-1)
    return found


def windows(grid: Sequence[int], window: Sequence[int]) -> NDArray[np.int64]:
    """i64[K, W]: the cells of every window in a grid."""
    corners = [(i, j) for i in range(grid[0] - window[0] + 1) for j in range(grid[1] - window[1] + 1)]
    return np.stack([cells(grid, window, i, j) for i, j in corners])


def cut(method: Method, name: str, x: Var, show: Callable[[Var], Var]) -> Var:
    """The operand of a condition as `method` takes it: cut by `show` if the window shows fewer of its tokens."""
    port = next((port for port in method.inputs if port.name == name), None)
    fits = port is None or port.type.rank != 2 or port.type.shape[1:] == x.type.shape[1:]
    return x if fits else show(x)
