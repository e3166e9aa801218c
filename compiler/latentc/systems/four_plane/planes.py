"""A volume of latents as planes, and back: means or projections along its axes (Suhail et al. 2024, arXiv:2412.04452).

Symbols: B batch, F, H, W frames, rows and columns of the volume, C channels, P planes over rows and columns.
"""

from __future__ import annotations

from typing import Any, Literal

from latentc.components.parts import dense
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var

Grid = tuple[int, int, int]


def plane_shapes(grid: Grid, planes: int) -> list[tuple[int, int, int]]:
    """Each plane's shape as a volume [F, H, W], whose side along the axis it has lost is 1."""
    frames, rows, columns = grid
    return [*[(1, rows, columns)] * (planes - 2), (frames, 1, columns), (frames, rows, 1)]


def plane_tokens(grid: Grid, planes: int) -> int:
    """Vectors of all planes."""
    return sum(frames * rows * columns for frames, rows, columns in plane_shapes(grid, planes))


def as_planes(b: Builder, x: Var, grid: Grid, planes: int, by: Literal["mean", "projection"], init: str) -> Var:
    """f32[B, F H W, C] -> f32[B, N, C]: the vectors of all `planes`, one after the other, each row by row.

    The first are of equal parts of the frames, one for each plane over rows and columns; then come those that have lost
    the rows and the columns. Each vector is the mean of those along the lost axis, or a linear map of them all, whose
    weight is named by the plane and starts as `init` says.
    """
    (frames, rows, columns), (batch, _, channels) = grid, x.shape
    count = planes - 2
    if by == "mean":
        parts = b.reshape(x, shape=(batch, count, frames // count, rows * columns, channels))
        parts = b.mean(parts, axes=(2,), keepdims=False)
        of_frames = b.reshape(parts, shape=(batch, count * rows * columns, channels), out="of_frames")
        volume = b.reshape(x, shape=(batch, frames, rows, columns, channels))
        of_rows = b.mean(volume, axes=(2,), keepdims=False)
        of_rows = b.reshape(of_rows, shape=(batch, frames * columns, channels), out="of_rows")
        of_columns = b.mean(volume, axes=(3,), keepdims=False)
        of_columns = b.reshape(of_columns, shape=(batch, frames * rows, channels), out="of_columns")
        return b.concat(of_frames, of_rows, of_columns, axis=1, out="planes")
    volume = b.reshape(x, shape=(batch, frames, rows, columns, channels), out="volume")
    part, made = frames // count, []
    for i, name in enumerate(_names(planes)):
        lost = max(1, i - count + 2)  # the axis that the plane lacks: frames, then rows, then columns
        x = b.slice(volume, axis=1, start=i * part, stop=(i + 1) * part) if i < count and count > 1 else volume
        kept = [axis for axis in (1, 2, 3) if axis != lost]
        x = b.transpose(x, perm=(0, *kept, lost, 4))
        _, first, second, length, _ = x.shape
        x = b.reshape(x, shape=(batch, first * second, length * channels), out=name)
        made.append(dense(b, f"planes.{name}", x, channels, True, init, out=name))
    return b.concat(*made, axis=1, out="planes")


def from_planes(b: Builder, z: Var, grid: Grid, planes: int, joined: bool) -> Var:
    """f32[B, N, C] -> f32[B, F H W, C']: the vectors of all planes at each place, `joined` or summed."""
    batch, channels = z.shape[0], z.shape[2]
    spread: list[tuple[str, Var]] = []
    start = 0
    for name, (frames, rows, columns) in zip(_names(planes), plane_shapes(grid, planes), strict=True):
        stop = start + frames * rows * columns
        plane = b.slice(z, axis=1, start=start, stop=stop)
        spread.append((name, b.reshape(plane, shape=(batch, frames, rows, columns, channels), out=name)))
        start = stop
    if not joined:
        return _flat(b, summed(b, "volume", [plane for _, plane in spread]), grid, channels)
    shape = (batch, *grid, channels)
    whole = [b.broadcast_to(plane, plane, shape=shape, out=name) for name, plane in spread]
    return _flat(b, b.concat(*whole, axis=4, out="volume"), grid, planes * channels)


def _names(planes: int) -> tuple[str, ...]:
    return (*(("of_frames",) if planes == 3 else ("of_first_half", "of_second_half")), "of_rows", "of_columns")


def _flat(b: Builder, volume: Var, grid: Grid, channels: Any) -> Var:
    frames, rows, columns = grid
    return b.reshape(volume, shape=(volume.shape[0], frames * rows * columns, channels), out="volume")
