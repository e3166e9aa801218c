"""Groups of tokens that are drawn at once, and the locality-aware orders in which they are.

Symbols: B batch, T tokens of a sample, N groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from latentc.ir.builder import Builder, Var
from latentc.ir.types import B

_OFF: Mapping[tuple[int, int], Sequence[int]] = {
    **{(256, 128): range(75, 87), (256, 32): (30, 31), (256, 24): (16, 18, 21), (256, 16): (14,), (256, 8): (4, 5, 6)},
    **{(1024, 512): range(300, 350), (1024, 256): (96, 97, 130, 131, 174, 175), (1024, 192): (191, 191)},
    **{(1024, 224): (30, 31, 51, 52, 73, 97, 124, 161), (1024, 160): (47, 59, 72, 86, 103, 126)},
    **{(1024, 96): (46, 51, 57, 64, 72, 85), (1024, 80): (54, 60, 67), (1024, 64): (49, 55), (1024, 56): (46, 52)},
    (1024, 40): (35,),
}
"""Groups of so many tokens and steps whose rounded sizes the authors' tables make one less, or more, by no rule."""


@cache
def group_sizes(steps: int, length: int) -> tuple[int, ...]:
    """Tokens of each of `steps` groups: 1 first, then as many as a quarter of a cosine falls by (Zhang et al. 2025).

    Each is rounded and at least 1; what the sum is off by is taken from (or given to) those of the authors' tables, or
    if they have none for these numbers, those whose rounding went furthest. ValueError: fewer tokens than groups.
    """
    if steps > length:
        raise ValueError(f"{steps} groups of {length} tokens")
    left = length * np.cos(np.pi / 2 * np.arange(steps + 1) / steps)
    exact = left[:-1] - left[1:]
    sizes = np.maximum(1, np.round(exact)).astype(np.int64)
    sizes[0] = 1 if steps > 1 else length
    np.subtract.at(sizes, list(_OFF.get((length, steps), ())), np.sign(int(sizes.sum()) - length))
    while (surplus := int(sizes.sum()) - length) != 0:
        off = np.where((sizes > 1) | (surplus < 0), (sizes - exact) * np.sign(surplus), -np.inf)
        off[0] = -np.inf
        sizes[int(np.argmax(off))] -= np.sign(surplus)
    return tuple(int(size) for size in sizes)


def group_numbers(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """i64[T]: the group that each place of an order belongs to."""
    return np.repeat(np.arange(len(sizes)), sizes)


def group_mask(b: Builder, group: Var, length: int) -> Var:
    """bool[B, 2 T + 1, 2 T + 1] of the group i64[B, T] of each place in an order: what tokens see in training.

    Rows and columns are of the condition, the known tokens and the queries. A known token sees its group and those
    before, a query its group's queries and the known tokens of the groups before.
    """
    size = 2 * length + 1
    level = b.op("mul", group, 2, out="level")
    first = b.full(group, shape=(1,), value=0, dtype="i64", out="first")
    of = b.concat(first, b.op("add", level, 2), b.op("add", level, 1), axis=1, out="of")
    row, column = b.reshape(of, shape=(B, size, 1)), b.reshape(of, shape=(B, 1, size))
    known = b.less_equal(b.arange(size), length, out="known")
    return b.logical_or(b.equal(row, column), b.logical_and(b.less(column, row), known), out="mask")


@cache
def local_orders(
    sizes: tuple[int, ...], side: int, proximity: float, repulsion: float, count: int, seed: int
) -> tuple[tuple[int, ...], ...]:
    """`count` locality-aware orders of the cells of a square grid; see `local_order`."""
    rng = np.random.Generator(np.random.Philox(seed))
    return tuple(local_order(sizes, side, proximity, repulsion, rng) for _ in range(count))


def local_order(
    sizes: tuple[int, ...], side: int, proximity: float, repulsion: float, rng: np.random.Generator
) -> tuple[int, ...]:
    """Cells of a `side` by `side` grid, row by row, in a locality-aware order (Zhang et al. 2025, arXiv:2507.01957).

    The first group is any cell. Others first take the cells nearest to those known, as long as their proximity, the sum
    of 1 / distance over known cells around, is at least `proximity`, and no cell of the group is within `repulsion`
    rows and columns; then cells as far as possible from the group, at equal distances those of less proximity than
    that first. Remaining ties are broken by proximity, then at random.
    """
    row, column = np.divmod(np.arange(side * side), side)
    rows, columns = np.abs(row[:, None] - row), np.abs(column[:, None] - column)
    apart, distance = np.maximum(rows, columns), np.hypot(rows, columns)
    close = np.where(apart == 1, 1 / np.maximum(distance, 1), 0.0)
    order: list[int] = []
    for size in sizes:
        if not order:
            order += rng.permutation(side * side)[:size].tolist()
            continue
        left = np.setdiff1d(np.arange(side * side), order)
        score = close[:, order].sum(axis=1).round(9)  # equal sums tie in any order of their terms
        left = left[np.lexsort((rng.random(len(left)), -score[left]))]
        near = score[left] >= proximity
        group: list[int] = []
        blocked = np.zeros(side * side, bool)
        for cell in left[near].tolist():
            if len(group) == size:
                break
            if not blocked[cell]:
                group.append(cell)
                blocked |= apart[cell] <= repulsion
        others = np.concatenate([left[~near], left[near]])
        others = others[~np.isin(others, group)]
        order += group + _farthest(others, group, distance, size - len(group), rng)
    return tuple(order)


def _farthest(
    cells: NDArray[np.int64], group: list[int], distance: NDArray[np.float64], count: int, rng: np.random.Generator
) -> list[int]:
    """`count` of `cells`, each as far as possible from those of `group` and from the ones before it."""
    if len(cells) <= count:
        return cells.tolist()
    found: list[int] = []
    while len(found) < count:
        taken = np.array([*group, *found], np.int64)
        # Taken cells are at distance 0 of themselves.
        place = np.argmax(distance[np.ix_(cells, taken)].min(axis=1)) if len(taken) else rng.integers(len(cells))
        found.append(int(cells[place]))
    return found
