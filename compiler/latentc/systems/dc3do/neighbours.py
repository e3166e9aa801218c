"""Sets of points: choosing some, finding their neighbours, and passing features from one set to another.

All of it as PVCNN computes it (Liu et al. 2019, arXiv:1907.03739; PointNet++, Qi et al. 2017, arXiv:1706.02413), which
LION uses. Places of points are data: none of these is differentiated by them.
Symbols: B batch, C channels, N points, M points of a smaller set, U neighbours, R side of a grid of voxels.
"""

from __future__ import annotations

from typing import Any

from latentc.ir.builder import Builder, Var

FAR = 1e10
"""Squared distance of points to an empty set, and the largest that interpolation distinguishes."""

NEAR = 1e-10
"""Least squared distance between a point and one it takes features from."""


def gathered(b: Builder, x: Var, index: Var, out: str = "") -> Var:
    """f32[B, P, C]: rows of x f32[B, N, C] that index i64[B, P] selects in each sample."""
    batch, count, channels = x.shape
    picked = index.shape[1]
    rows = b.reshape(_of_all(b, index, count), shape=(batch * picked,), out="rows")
    flat = b.take(b.reshape(x, shape=(batch * count, channels)), rows, axis=0)
    return b.reshape(flat, shape=(batch, picked, channels), out=out)


def _of_all(b: Builder, index: Var, count: Any) -> Var:
    """i64[B, P]: index i64[B, P] into each sample's `count` rows, as one into the rows of all samples."""
    ones = b.full(index, shape=(1,), value=1, dtype="i64", out="ones")
    sample = b.op("sub", b.cumsum(ones, axis=0), 1, out="sample")
    return b.op("add", b.op("mul", sample, b.scalar(count, sample)), index, out="index")


def squared_distances(b: Builder, points: Var, others: Var) -> Var:
    """f32[B, M, N]: of each of points f32[B, M, 3] from each of others f32[B, N, 3]."""
    columns = b.split(points, axis=2, sizes=(1, 1, 1), out="x y z")
    rows = b.split(b.transpose(others, perm=(0, 2, 1)), axis=1, sizes=(1, 1, 1), out="x y z")
    total = None
    for column, row in zip(columns, rows, strict=True):
        along = b.op("sub", column, row, out="along")
        total = along * along if total is None else b.add(total, along * along, out="distance")
    assert total is not None
    return total


def furthest_points(b: Builder, points: Var, count: Any) -> Var:
    """f32[B, M, 3]: the first of points f32[B, N, 3], then each time the one furthest from all chosen so far."""
    batch, total, _ = points.shape
    nearest = b.full(points, shape=(total,), value=FAR, dtype="f32", out="nearest")
    current = b.full(points, shape=(1,), value=0, dtype="i64", out="current")

    def body(
        inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
    ) -> tuple[list[Var], list[Var]]:
        (every,), (nearest, current) = kept, carried
        index = inner.broadcast_to(inner.reshape(current, shape=(batch, 1, 1)), shape=(batch, 1, 3), out="index")
        chosen = inner.take_along(every, index, axis=1, out="chosen")
        away = inner.op("sub", every, chosen, out="away")
        distance = inner.sum(away * away, axes=(2,), keepdims=False, out="distance")
        nearest = inner.minimum(nearest, distance, out="nearest")
        current = inner.reshape(inner.argmax(nearest, axis=1), shape=(batch, 1), out="current")
        return [nearest, current], [inner.reshape(chosen, shape=(batch, 3), out="chosen")]

    names = ["nearest", "current"]
    _, _, chosen = b.loop("choose", count, body, invariants=[points], carried=[nearest, current], names=names)
    return b.transpose(chosen, perm=(1, 0, 2), out="centres")


def neighbours_of(b: Builder, centres: Var, points: Var, radius: float, count: Any) -> Var:
    """i64[B, M, U]: the first `count` of points f32[B, N, 3] within a radius of each of centres f32[B, M, 3].

    If there are fewer, the first of them fills the rest. Each centre is one of the points, so there is always one.
    """
    total = points.shape[1]
    distance = squared_distances(b, centres, points)
    rank = b.op("sub", b.scalar(total, distance), b.cast(b.arange(total), to="f32"), out="rank")  # N to 1
    within = b.where(b.less(distance, radius * radius), rank, 0.0, out="within")
    found, _ = b.top_k(within, k=count, out="found order")
    first = b.slice(found, axis=2, start=0, stop=1, out="first")
    found = b.where(b.greater(found, 0.0), found, first, out="found")
    return b.cast(b.op("sub", b.scalar(total, found), found), to="i64", out="index")


def interpolated(b: Builder, points: Var, centres: Var, features: Var) -> Var:
    """f32[B, C, N]: features f32[B, C, M] of centres f32[B, M, 3] at points f32[B, N, 3].

    A point takes those of the three nearest centres, weighted by the inverse of its squared distance from them.
    """
    batch, channels, total = features.shape
    count, several = points.shape[1], min(3, int(total))
    distance = squared_distances(b, points, centres)
    nearest, index = b.top_k(-distance, k=several, out="nearest index")
    close = b.div(1.0, b.clamp(-nearest, low=NEAR, high=FAR), out="close")
    share = b.div(close, b.sum(close, axes=(2,), keepdims=True), out="share")
    rows = b.transpose(features, perm=(0, 2, 1))
    read = gathered(b, rows, b.reshape(index, shape=(batch, count * several)), out="read")
    read = b.reshape(read, shape=(batch, count, several, channels))
    read = b.sum(read * b.reshape(share, shape=(batch, count, several, 1)), axes=(2,), keepdims=False, out="read")
    return b.transpose(read, perm=(0, 2, 1))


def in_grid(b: Builder, points: Var, side: Any) -> Var:
    """f32[B, N, 3]: points as places in a grid of voxels, in voxels from 0 to R - 1 along each axis.

    Points are centred, and the furthest from the centre lies on the sphere that touches the grid's faces.
    """
    centred = b.op("sub", points, b.mean(points, axes=(1,), keepdims=True), out="centred")
    length = b.sqrt(b.sum(centred * centred, axes=(2,), keepdims=True), out="length")
    longest = b.maximum(b.max(length, axes=(1,), keepdims=True), NEAR, out="longest")  # points may coincide
    place = (b.div(centred, longest * 2.0) + 0.5) * b.scalar(side, points)
    return b.minimum(b.maximum(place, 0.0), b.scalar(side - 1, points), out="place")


def voxels(b: Builder, features: Var, place: Var, side: Any) -> Var:
    """f32[B, C, R, R, R]: means of features f32[B, C, N] of the points at places f32[B, N, 3], by voxel."""
    batch, channels, count = features.shape
    cells = side * side * side
    nearest = b.cast(_half_to_even(b, place), to="i64", out="nearest")
    x, y, z = b.split(nearest, axis=2, sizes=(1, 1, 1), out="x y z")
    index = b.reshape(_flat(b, (x, y, z), side), shape=(batch, count), out="index")
    rows = b.reshape(_of_all(b, index, cells), shape=(batch * count,), out="rows")
    ones = b.full(features, shape=(1, count), value=1.0, dtype="f32", out="ones")
    summed = b.transpose(b.concat(features, ones, axis=1), perm=(0, 2, 1), out="summed")
    summed = b.reshape(summed, shape=(batch * count, channels + 1))
    empty = b.full(features, shape=(cells, channels + 1), value=0.0, dtype="f32", out="empty")
    total = b.scatter_add(b.reshape(empty, shape=(batch * cells, channels + 1)), rows, summed, axis=0, out="total")
    total, number = b.split(total, axis=1, sizes=(channels, 1), out="total number")
    mean = b.reshape(b.div(total, b.maximum(number, 1.0)), shape=(batch, cells, channels))
    return b.reshape(b.transpose(mean, perm=(0, 2, 1)), shape=(batch, channels, side, side, side), out="voxels")


def _half_to_even(b: Builder, x: Var) -> Var:
    """x >= 0 rounded to the nearest whole number; halves to the even one, as torch.round does."""
    up = b.floor(x + 0.5, out="up")
    odd = up - b.floor(up * 0.5) * 2.0
    return b.where(b.equal(up - x, 0.5), up - odd, up, out="rounded")


def _flat(b: Builder, place: tuple[Var, Var, Var], side: Any) -> Var:
    """Numbers of voxels in row-major order."""
    index, *rest = place
    for along in rest:
        index = b.op("add", b.op("mul", index, b.scalar(side, index)), along, out="index")
    return index


def read_voxels(b: Builder, grid: Var, place: Var) -> Var:
    """f32[B, C, N]: a grid of voxels f32[B, C, R, R, R] at places f32[B, N, 3], by trilinear interpolation."""
    batch, channels, side, *_ = grid.shape
    count, cells = place.shape[1], side * side * side
    low = b.floor(place, out="low")
    part = b.op("sub", place, low, out="part")
    high = b.minimum(low + 1.0, b.scalar(side - 1, low), out="high")
    corners = b.cast(b.concat(*_rank_4(b, low, high), axis=3), to="i64", out="corners")  # [B, N, 3, 2]
    shares = b.concat(*_rank_4(b, 1.0 - part, part), axis=3, out="shares")

    def axes(x: Var) -> tuple[Var, Var, Var]:
        """Both corners along each axis, on an axis of their own."""
        of = b.split(x, axis=2, sizes=(1, 1, 1), out="x y z")
        shapes = ((2, 1, 1), (1, 2, 1), (1, 1, 2))
        first, second, third = (b.reshape(v, shape=(batch, count, *s)) for v, s in zip(of, shapes, strict=True))
        return first, second, third

    index = b.reshape(_flat(b, axes(corners), side), shape=(batch, count * 8), out="index")
    x, y, z = axes(shares)
    share = b.reshape(x * y * z, shape=(batch, count, 8, 1), out="share")
    flat = b.transpose(b.reshape(grid, shape=(batch, channels, cells)), perm=(0, 2, 1))
    read = b.reshape(gathered(b, flat, index, out="read"), shape=(batch, count, 8, channels))
    return b.transpose(b.sum(read * share, axes=(2,), keepdims=False), perm=(0, 2, 1), out="read")


def _rank_4(b: Builder, *xs: Var) -> list[Var]:
    return [b.reshape(x, shape=(*x.shape, 1)) for x in xs]
