"""Motion between two images, from regions that a network finds in each (Siarohin et al. 2021, arXiv:2104.11280).

Coordinates are (column, row) from -1, the first pixel of an axis, to 1, the last. Symbols: B batch, C channels, K
regions, H and W sides of the image, h and w of the flow.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.systems.lfdm.parts import conv, encoder, hourglass, reduced, widths

Pair = tuple[Var, Var]
"""A value for columns and one for rows."""

SMALLEST = 1e-10
"""Least variance of a region along its axes; a region of a single pixel has none."""


def coordinates(b: Builder, rows: int, columns: int) -> Pair:
    """f32[1, 1, 1, w] and f32[1, 1, h, 1]."""
    x, y = (np.linspace(-1.0, 1.0, n) for n in (columns, rows))
    return (
        b.constant(x.reshape(1, 1, 1, columns), "f32", out="columns"),
        b.constant(y.reshape(1, 1, rows, 1), "f32", out="rows"),
    )


def entries(b: Builder, matrices: Var, names: str) -> list[Var]:
    """The numbers of f32[B, K, N], each as f32[B, K, 1, 1]."""
    batch, count, size = matrices.shape
    parts = b.split(matrices, axis=2, sizes=(1,) * int(size), out=names)
    return [b.reshape(x, shape=(batch, count, 1, 1), out=n) for x, n in zip(parts, names.split(), strict=True)]


@cache
def region_predictor(regions: int, width: int, most: int, count: int, factor: int, temperature: float) -> BlockBody:
    @module_class("RegionPredictor", x="B C H W")
    def forward(b: Builder, x: Var) -> tuple[Var, Var, Var]:
        """Where the regions of images x are: their mean [B, K, 2], their covariance [B, K, 3] (of columns, mixed, of
        rows), and a root of it [B, K, 4], row by row."""
        h = conv(b, "regions", hourglass(b, reduced(b, x, factor), width, most, count), regions, 7)
        batch, _, rows, columns = h.shape
        flat = b.reshape(h * (1 / temperature), shape=(batch, regions, rows * columns), out="h")
        heat = b.reshape(b.softmax(flat, axis=2), shape=h.shape, out="heat")
        x, y = coordinates(b, int(rows), int(columns))

        def total(values: Var, out: str) -> Var:
            return b.sum(values, axes=(2, 3), keepdims=True, out=out)

        mean_x, mean_y = total(heat * x, "mean_x"), total(heat * y, "mean_y")
        dx, dy = x - mean_x, y - mean_y
        covariance = total(heat * dx * dx, "xx"), total(heat * dx * dy, "xy"), total(heat * dy * dy, "yy")

        def joined(values: Any, out: str) -> Var:
            parts = [b.reshape(value, shape=(batch, regions, 1)) for value in values]
            return b.concat(*parts, axis=2, out=out)

        root = _root(b, *covariance)
        return joined((mean_x, mean_y), "shift"), joined(covariance, "covariance"), joined(root, "affine")

    return forward


def _root(b: Builder, xx: Var, xy: Var, yy: Var) -> tuple[Var, Var, Var, Var]:
    """U S^(1/2) of covariances with the singular values S and vectors U, row by row.

    The larger singular value is first. Its vector is (-cos, -sin) of an angle of at most 90 degrees, and U a
    reflection, as in LAPACK, up to the sign of the whole, which is undone where roots are compared.
    """
    half, mean = b.op("mul", xx - yy, 0.5, out="half"), b.op("mul", xx + yy, 0.5, out="mean")
    radius = b.sqrt(half * half + xy * xy + 1e-16, out="radius")
    first = b.sqrt(mean + radius, out="first")
    second = b.sqrt(b.maximum(mean - radius, SMALLEST), out="second")
    # Half of the angle whose cosine is half / radius and whose sine is xy / radius: from whichever is not near 0.
    large = b.sqrt(0.5 + b.abs(half) / radius * 0.5, out="large")
    small = b.div(b.abs(xy), radius * large * 2.0, out="small")
    wide = b.greater(b.scalar(0.0, half), half, out="tall")
    cosine, sine = b.where(wide, small, large, out="cosine"), b.where(wide, large, small, out="sine")
    sine = b.where(b.less(xy, 0.0), b.neg(sine), sine, out="sine")
    return b.neg(cosine * first), b.neg(sine * second), b.neg(sine * first), b.op("mul", cosine, second)


@cache
def background_predictor(width: int, most: int, count: int) -> BlockBody:
    @module_class("BackgroundPredictor", source="B C H W", driving="B C H W")
    def forward(b: Builder, source: Var, driving: Var) -> Var:
        """The affine map [B, 1, 6], row by row, from the background of an image to that of another."""
        of = widths(width, most, count)
        h = encoder(b, "down", b.concat(source, driving, axis=1, out="both"), of)[-1]
        h = b.mean(h, axes=(2, 3), keepdims=False, out="h")
        weight = b.param("fc.weight", f32(6, of[-1]), "zeros")
        bias = b.param("fc.bias", f32(2, 3), "eye")
        h = b.linear(h, weight, b.reshape(bias, shape=(6,), out="bias"))
        return b.reshape(h, shape=(h.shape[0], 1, 6), out="background")

    return forward


@cache
def flow_predictor(regions: int, width: int, most: int, count: int, factor: int) -> BlockBody:
    @module_class("FlowPredictor", x="B C H W", background="B M N")
    def forward(
        b: Builder,
        x: Var,
        shift: Var,
        covariance: Var,
        affine: Var,
        to_shift: Var,
        to_covariance: Var,
        to_affine: Var,
        background: Var,
    ) -> tuple[Var, Var]:
        """Where each pixel of an image with the second regions comes from in images x, which have the first.

        Returns the flow [B, 2, h, w] and how much of each pixel is not occluded in x [B, 1, h, w].
        """
        x = reduced(b, x, factor)
        batch, channels, rows, columns = x.shape
        rows, columns = int(rows), int(columns)
        places = coordinates(b, rows, columns)
        every = regions + 1
        here, there = _places(b, shift, "from_x from_y"), _places(b, to_shift, "to_x to_y")
        heat = _heat(b, places, there, to_covariance) - _heat(b, places, here, covariance)
        heat = b.pad(heat, axis=1, before=1, after=0, value=0.0, out="heat")  # the background has no region
        moved = _moved(b, places, here, affine, there, to_affine)
        a = entries(b, background, "a00 a01 a02 a10 a11 a12")
        backdrop = [a[3 * i] * places[0] + a[3 * i + 1] * places[1] + a[3 * i + 2] for i in range(2)]
        motions = [
            b.concat(*pair, axis=1, out=n) for n, *pair in zip(("move_x", "move_y"), backdrop, moved, strict=True)
        ]
        grids = [b.reshape(m, shape=(batch * every, rows, columns, 1)) for m in motions]
        images = b.broadcast_to(
            b.reshape(x, shape=(batch, 1, channels, rows, columns)), shape=(batch, every, channels, rows, columns)
        )
        images = b.reshape(images, shape=(batch * every, channels, rows, columns), out="images")
        warped = b.grid_sample(images, b.concat(*grids, axis=3, out="grid"), outside="zeros")
        warped = b.reshape(warped, shape=(batch, every, channels, rows, columns), out="warped")
        seen = b.concat(b.reshape(heat, shape=(batch, every, 1, rows, columns)), warped, axis=2, out="seen")
        seen = b.reshape(seen, shape=(batch, every * (channels + 1), rows, columns), out="seen")
        h = hourglass(b, seen, width, most, count)
        shares = b.softmax(conv(b, "mask", h, every, 7), axis=1, out="shares")
        flow = [b.sum(m * shares, axes=(1,), keepdims=True) for m in motions]
        return b.concat(*flow, axis=1, out="flow"), b.sigmoid(conv(b, "occlusion", h, 1, 7), out="visible")

    return forward


def _places(b: Builder, shift: Var, names: str) -> Pair:
    x, y = entries(b, shift, names)
    return x, y


def _heat(b: Builder, places: Pair, mean: Pair, covariance: Var) -> Var:
    """f32[B, K, h, w]: exp(-d^T S^-1 d / 2) of the distance d from the means of regions."""
    xx, xy, yy = entries(b, covariance, "xx xy yy")
    dx, dy = places[0] - mean[0], places[1] - mean[1]
    distance = b.div(dx * dx * yy - dx * dy * xy * 2.0 + dy * dy * xx, xx * yy - xy * xy, out="distance")
    return b.exp(distance * -0.5, out="heat")


def _moved(b: Builder, places: Pair, here: Pair, affine: Var, there: Pair, to_affine: Var) -> Pair:
    """Places as each region's motion maps them, back to the image that it comes from."""
    a, c = entries(b, affine, "a00 a01 a10 a11"), entries(b, to_affine, "c00 c01 c10 c11")
    m = times_inverse(b, a, c)
    dx, dy = places[0] - there[0], places[1] - there[1]
    return m[0] * dx + m[1] * dy + here[0], m[2] * dx + m[3] * dy + here[1]


def times_inverse(b: Builder, a: list[Var], c: list[Var]) -> list[Var]:
    """A C^-1 of 2 x 2 matrices, row by row, with the sign that makes its first number positive."""
    determinant = b.op("sub", c[0] * c[3], c[1] * c[2], out="determinant")
    m = [a[0] * c[3] - a[1] * c[2], a[1] * c[0] - a[0] * c[1], a[2] * c[3] - a[3] * c[2], a[3] * c[0] - a[2] * c[1]]
    m = [b.div(value, determinant, out="m") for value in m]
    return with_positive_first(b, m)


def with_positive_first(b: Builder, m: list[Var]) -> list[Var]:
    """Matrices, or their negatives if their first number is negative: roots of covariances have any sign."""
    sign = b.where(b.less(m[0], 0.0), b.scalar(-1.0, m[0]), 1.0, out="sign")
    return [b.mul(value, sign, out="m") for value in m]
