"""Programs of any number of rows per sample, such as points or rays: an engine call computes a fixed number of them.

A row's value depends on that row and on the sample's other inputs alone, so a sample with more rows becomes several
samples of the engine, each with a chunk of them.

Symbols: B batch, P rows of a sample in a request, N rows of a chunk, K chunks of a sample.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentc_runtime.request_checks import in_one_request, numbers
from latentc_runtime.sources import Array, Condition, Given, RequestError

MOST_ROWS = 1 << 27  # of a sample
_SIDES = re.compile(r"[0-9]{1,9}(x[0-9]{1,9})*")


@dataclass(frozen=True)
class Grid:
    """A regular grid over a cube around the origin, whose points may be asked for by their number per axis.

    `axes`: their names, one per coordinate of a point. `extent`: side of the cube. `middles`: points are in the middles
    of equal cells; otherwise the first and the last of an axis lie on the sides of the cube.
    """

    axes: tuple[str, ...]
    extent: float = 2.0
    middles: bool = False


@dataclass(frozen=True)
class Chunk:
    """A program whose samples have any number of rows, such as points or rays: an engine call takes `size` of them.

    Rows are the first axis of the values of `conditions`, and of every output. `grid`: one that the first of the
    conditions may be.
    """

    size: int
    conditions: tuple[str, ...]
    grid: Grid | None = None

    def count(self, rows: int) -> int:
        """The number of chunks of so many rows."""
        return -(-rows // self.size)


def described_rows(condition: Condition, chunk: Chunk) -> str:
    """The values that a condition of rows takes, and how to give them."""
    rest, grid = ", ".join(map(str, condition.shape[1:])), ""
    if chunk.grid is not None and condition.name == chunk.conditions[0]:
        sides = "x".join(["64"] * len(chunk.grid.axes))
        grid = f"; or a grid of points by their number per axis, `--given {condition.name}=64` or {sides}"
    axes = f" ({', '.join(condition.axes)})" if condition.axes else ""
    what = f"`{condition.name}` takes {condition.dtype}[P, {rest}]{axes} per sample, with any number P of rows"
    return f'{what}: `conditions={{"{condition.name}": …}}`, `--given {condition.name}=FILE.npy`{grid}'


def with_rows(
    chunk: Chunk, conditions: Sequence[Condition], given: Mapping[str, Any] | None, most: int
) -> tuple[tuple[Condition, ...], dict[str, Any], int, tuple[int, ...] | None]:
    """The conditions with the number of rows that a request gives, its values, this number P, and the sides of a grid.

    A grid that is asked for by its sides is an array in the values. `most`: chunks of one request. Raises RequestError.
    """
    values = dict(given or {})
    known = {c.name: c for c in conditions}
    first = known[chunk.conditions[0]]
    sides = None if first.name not in values else grid_sides(chunk, first, values[first.name])
    if sides is not None:
        _check_rows(chunk, math.prod(sides), most)
        values[first.name] = grid_points(chunk, sides)
    counts = {}
    for name in chunk.conditions:
        if name in values:
            shape, rank = np.shape(numbers(name, values[name])), len(known[name].shape)
            if not rank <= len(shape) <= rank + 1 or shape[len(shape) - rank + 1 :] != known[name].shape[1:]:
                raise RequestError(f"`{name}` has shape {list(shape)}", described_rows(known[name], chunk))
            counts[name] = int(shape[-rank])
        elif known[name].required:
            raise RequestError(f"the condition `{name}` is missing", described_rows(known[name], chunk))
    rows = next(iter(counts.values()), chunk.size)
    if any(count != rows for count in counts.values()):
        said = " and ".join(f"`{name}` has {count}" for name, count in counts.items())
        raise RequestError(f"the conditions differ in their number of rows: {said}", "give as many rows of each")
    _check_rows(chunk, rows, most)
    own = (replace(c, shape=(rows, *c.shape[1:])) if c.name in chunk.conditions else c for c in conditions)
    return tuple(own), values, rows, sides


def _check_rows(chunk: Chunk, rows: int, most: int) -> None:
    if rows < 1:
        raise RequestError(f"`{chunk.conditions[0]}` has no rows", "give at least one")
    if rows > (limit := min(MOST_ROWS, most * chunk.size)):
        raise RequestError(f"{rows} rows of a sample in one request; at most {limit}", "split them into requests")


def grid_sides(chunk: Chunk, condition: Condition, value: Any) -> tuple[int, ...] | None:
    """The sides that a value asks for: a number, one per axis, or a text such as "64" or "48x64"; None: other values.

    Raises RequestError.
    """
    if chunk.grid is None:
        return None
    rank = len(chunk.grid.axes)
    if isinstance(value, str):
        if not _SIDES.fullmatch(value):
            message = f"condition `{condition.name}` takes numbers, not the text {value!r:.60}"
            raise RequestError(message, described_rows(condition, chunk))
        found = tuple(map(int, value.split("x")))
    elif isinstance(value, int | np.integer) and not isinstance(value, bool):
        found = (int(value),)
    elif isinstance(value, Sequence) and value and all(type(one) is int for one in value):
        found = tuple(value)
    else:
        return None
    found = found * rank if len(found) == 1 else found
    if len(found) != rank or min(found) < 1:
        message = f"`{condition.name}` asks for a grid of {' x '.join(map(str, found))} points"
        axes = ", ".join(chunk.grid.axes)
        raise RequestError(message, f"give a number of at least 1, or one per axis: {axes}")
    return found


def grid_points(chunk: Chunk, sides: Sequence[int]) -> Array:
    """f32[P, axes]: the points of a grid with these sides, the last axis fastest."""
    grid = chunk.grid
    assert grid is not None
    lines = []
    for side in sides:
        line = (np.arange(side) * 2 + 1) / side - 1 if grid.middles else np.linspace(-1, 1, side)
        lines.append((line * (grid.extent / 2)).astype(np.float32))
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(lines))


def given_in_chunks(chunk: Chunk, given: Given, rows: int) -> Given:
    """A request of `rows` rows per sample as B * K samples of one chunk; the last is filled up with its last row."""
    count = chunk.count(rows)

    def pieces(values: Array) -> Array:
        spare = np.repeat(values[:, -1:], count * chunk.size - rows, axis=1)
        whole = np.concatenate([values, spare], axis=1)
        return whole.reshape(len(values) * count, chunk.size, *values.shape[2:])

    conditions = {
        name: pieces(values) if name in chunk.conditions else np.repeat(values, count, axis=0)
        for name, values in given.conditions.items()
    }
    masks = {name: np.repeat(values, count, axis=0) for name, values in given.masks.items()}
    settings = {name: np.repeat(values, count, axis=0) for name, values in given.settings.items()}
    return Given(np.repeat(given.seeds, count), conditions, masks, settings)


def from_chunks(array: Array, count: int, rows: int, sides: Sequence[int] | None = None) -> Array:
    """An output of `count` samples [B, P, …], on a grid [B, channels, *sides], from those of chunks [B * K, N, …]."""
    whole = array.reshape(count, array.shape[0] * array.shape[1] // max(count, 1), *array.shape[2:])[:, :rows]
    if sides is not None:
        whole = np.moveaxis(whole.reshape(count, *sides, array.shape[2]), -1, 1)
    return np.ascontiguousarray(whole)


def check_chunks(chunk: Chunk, rows: int, count: int, most: int) -> None:
    """RequestError for more than `most` chunks in one request of `count` samples."""
    in_one_request(count * chunk.count(rows), most)
