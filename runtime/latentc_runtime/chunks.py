"""Programs of any number of rows per sample, such as points or rays: an engine call computes a fixed number of them.

A row's value depends on that row and on the sample's other inputs alone, so a sample with more rows becomes several
samples of the engine, each with a chunk of them.

Symbols: B batch, P rows of a sample in a request, N rows of a chunk, K chunks of a sample.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latentc_runtime.manifest import Chunk, Output, ProgramEntry, ProgramOutput
from latentc_runtime.request_checks import described, in_one_request, numbers
from latentc_runtime.sources import Array, Condition, Given, RequestError

if TYPE_CHECKING:
    from latentc_runtime.request import Request

MOST_ROWS = 1 << 27  # of a sample
_SIDES = re.compile(r"[0-9]{1,9}(x[0-9]{1,9})*")


def described_rows(condition: Condition, chunk: Chunk) -> str:
    """The values that a condition of rows takes, and how to give them."""
    rest, grid = ", ".join(map(str, condition.shape[1:])), ""
    if chunk.grid is not None and condition.name == chunk.conditions[0]:
        sides = "x".join(["64"] * len(chunk.grid.axes))
        grid = f"; or the number of points of a grid per axis, `--size 64` or `--size {sides}`"
    axes = f" ({', '.join(condition.axes)})" if condition.axes else ""
    what = f"`{condition.name}` takes {condition.dtype}[P, {rest}]{axes} per sample, with any number P of rows"
    return f'{what}: `conditions={{"{condition.name}": …}}`, `--given {condition.name}=FILE.npy`{grid}'


def takes(condition: Condition, programs: Sequence[ProgramEntry]) -> str:
    """`described`, or `described_rows` for a condition of rows of one of the programs."""
    chunks = [p.chunk for p in programs if p.chunk is not None and condition.name in p.chunk.conditions]
    return described_rows(condition, chunks[0]) if chunks else described(condition)


def with_rows(
    chunk: Chunk, conditions: Sequence[Condition], given: Mapping[str, Any] | None, most: int
) -> tuple[list[Condition], dict[str, Any], int, tuple[int, ...] | None]:
    """The conditions with the number of rows that a request gives, its values, this number P, and the sides of a grid.

    A grid that is asked for by its sides is an array in the values. `most`: chunks of one request. Raises RequestError.
    """
    values, sides = dict(given or {}), None
    known = {c.name: c for c in conditions}
    first = known[chunk.conditions[0]]
    if chunk.grid is not None and first.name in values:
        sides = _sides(chunk, first, values[first.name], most)
        if sides is not None:
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
    own = [replace(c, shape=(rows, *c.shape[1:])) if c.name in chunk.conditions else c for c in conditions]
    return own, values, rows, sides


def _check_rows(chunk: Chunk, rows: int, most: int) -> None:
    if rows < 1:
        raise RequestError(f"`{chunk.conditions[0]}` has no rows", "give at least one")
    if rows > MOST_ROWS or chunks_of(chunk, rows) > most:
        limit = min(MOST_ROWS, most * chunk.size)
        raise RequestError(f"{rows} rows of a sample in one request; at most {limit}", "split them into requests")


def _sides(chunk: Chunk, condition: Condition, value: Any, most: int) -> tuple[int, ...] | None:
    """The sides that a value asks for: a number, one per axis, or a text such as "64" or "48x64"; None: other values."""
    assert chunk.grid is not None
    rank = len(chunk.grid.axes)
    if isinstance(value, str):
        if not _SIDES.fullmatch(value):
            message = f"`{condition.name}` takes numbers, not the text {value!r:.60}"
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
    _check_rows(chunk, math.prod(found), most)
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


def chunks_of(chunk: Chunk, rows: int) -> int:
    """The number of chunks of so many rows."""
    return -(-rows // chunk.size)


def outputs_with_rows(
    chunk: Chunk, outputs: Sequence[ProgramOutput], rows: int, sides: tuple[int, ...] | None
) -> tuple[ProgramOutput, ...]:
    """The outputs of a request of so many rows: [P, …], or on a grid [channels, *sides]."""
    return tuple(replace(one, output=_with_rows(chunk, one.output, rows, sides)) for one in outputs)


def _with_rows(chunk: Chunk, output: Output, rows: int, sides: tuple[int, ...] | None) -> Output:
    if sides is None:
        return replace(output, shape=(rows, *output.shape[1:]))
    assert chunk.grid is not None
    picture = chunk.grid.axes == ("height", "width") and output.range is not None and output.shape[1] in (1, 3)
    axes = ("channel", *chunk.grid.axes)
    return replace(output, shape=(output.shape[1], *sides), axes=axes, medium="image" if picture else output.medium)


def in_chunks(request: Request) -> Request:
    """The request as the engine runs it: B * K samples of one chunk each, the last filled up with its last row."""
    chunk, rows = request.entry.chunk, request.rows
    assert chunk is not None and rows is not None
    count = chunks_of(chunk, rows)

    def pieces(values: Array) -> Array:
        spare = np.repeat(values[:, -1:], count * chunk.size - rows, axis=1)
        whole = np.concatenate([values, spare], axis=1)
        return whole.reshape(len(values) * count, chunk.size, *values.shape[2:])

    given = request.given
    per_step = {entry.name for entry in request.entry.inputs if entry.rows is not None}
    conditions = {
        name: pieces(values) if name in chunk.conditions else np.repeat(values, count, axis=0)
        for name, values in given.conditions.items()
    }
    masks, settings = (
        {name: np.repeat(values, count, axis=0) for name, values in group.items()}
        for group in (given.masks, given.settings)
    )
    noise = {name: np.repeat(a, count, axis=1 if name in per_step else 0) for name, a in request.noise.items()}
    whole = Given(np.repeat(given.seeds, count), conditions, masks, settings)
    return replace(request, given=whole, noise=noise, rows=None, sides=None)


def from_chunks(request: Request, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a request [B, P, …], or on a grid [B, channels, *sides], from those of its chunks [B * K, N, …]."""
    rows, sides = request.rows, request.sides
    assert rows is not None
    found = {}
    for name, array in outputs.items():
        whole = array.reshape(len(request), -1, *array.shape[2:])[:, :rows]
        if sides is not None:
            whole = np.moveaxis(whole.reshape(len(request), *sides, array.shape[2]), -1, 1)
        found[name] = np.ascontiguousarray(whole)
    return found


def check_request_size(chunk: Chunk, rows: int, count: int, most: int) -> None:
    """RequestError for more than `most` chunks in one request."""
    in_one_request(count * chunks_of(chunk, rows), most)
