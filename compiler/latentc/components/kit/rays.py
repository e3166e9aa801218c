"""Rays through a neural field: cameras, points along rays, and what is seen or absorbed on the way.

Symbols: B batch, P rays (one per pixel), N points per ray, C colours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from latentc.ir.builder import Builder, Var

LEAST = 1e-10
"""Added to the share of light that passes a point."""


def pinhole(side: int, fov: float) -> np.ndarray[Any, Any]:
    """f64[P, 3]: unit directions of the rays of `side` by `side` pixels, row by row, in the space of the camera.

    The camera looks along -z with y upwards and sees `fov` degrees; the outermost rays lie on the edges of the image.
    """
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(1, -1, side))
    rays = np.stack([x.ravel(), y.ravel(), np.full(side * side, -1 / math.tan(math.radians(fov) / 2))], axis=-1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)  # type: ignore[no-any-return]


def through_pixels(b: Builder, pixels: Var, fov: float) -> Var:
    """f32[B, P, 3]: unit directions of the rays through places of an image, in the space of the camera; see `pinhole`.

    `pixels` f32[B, P, 2]: down and right, from -1 to 1 between the outermost rays of `pinhole`.
    """
    down, right = b.split(pixels, axis=2, sizes=(1, 1), out="down right")
    ahead = b.add(down * 0.0, -1 / math.tan(math.radians(fov) / 2), out="ahead")
    rays = b.concat(right, b.neg(down), ahead, axis=2, out="rays")
    length = b.sqrt(b.sum(rays * rays, axes=(2,), keepdims=True), out="length")
    return b.div(rays, length, out="of_pixels")  # type: ignore[no-any-return]


def orbit(b: Builder, pitch: Var, yaw: Var) -> tuple[Var, Var]:
    """The transposed rotation f32[B, 3, 3] from camera to world, and the place f32[B, 1, 3] of a camera on the unit
    sphere that looks at the origin.

    `pitch` and `yaw` f32[B, 1] in radians: the pitch is 0 above the origin and pi / 2 on the horizon.
    """
    batch, pitch = pitch.shape[0], b.clamp(pitch, low=1e-5, high=math.pi - 1e-5, out="pitch")
    (sin_yaw, cos_yaw), (sin, cos) = ((b.sin(angle), b.cos(angle)) for angle in (yaw, pitch))
    right = (sin_yaw, sin_yaw * 0.0, b.neg(cos_yaw))
    up = (b.neg(cos * cos_yaw), sin, b.neg(cos * sin_yaw))
    back = (sin * cos_yaw, cos, sin * sin_yaw)
    rotation = b.reshape(b.concat(*right, *up, *back, axis=1), shape=(batch, 3, 3), out="rotation")
    return rotation, b.reshape(b.concat(*back, axis=1), shape=(batch, 1, 3), out="origin")


def along(b: Builder, origin: Var, directions: Var, depths: Var, out: str = "points") -> Var:
    """f32[B, P, N, 3]: the points at `depths` [B or 1, P, N] from origins [B, 1 or P, 3] in directions [B, P, 3]."""
    batch, count = directions.shape[:2]
    start = b.reshape(origin, shape=(origin.shape[0], origin.shape[1], 1, 3))
    step = b.reshape(directions, shape=(batch, count, 1, 3)) * b.reshape(depths, shape=(*depths.shape, 1))
    return b.add(start, step, out=out)  # type: ignore[no-any-return]


def lengths(b: Builder, depths: Var) -> Var:
    """f32[B, P, N - 1]: the distances between neighbouring points of rays."""
    count = int(depths.shape[2])
    before, after = (b.slice(depths, axis=2, start=i, stop=count - 1 + i) for i in (0, 1))
    return b.op("sub", after, before, out="lengths")  # type: ignore[no-any-return]


def visible(b: Builder, density: Var, depths: Var, out: str = "weights") -> Var:
    """f32[B, P, N]: the share of what a ray shows that comes from each point, by alpha compositing.

    `density` f32[B, P, N] is at least 0 (Max 1995, as NeRF has it: Mildenhall et al. 2020, arXiv:2003.08934). A point
    stands for the ray up to the next one, the last for all beyond it: it hides the background if it has any density.
    """
    count = int(depths.shape[2])
    near, last = b.split(density, axis=2, sizes=(count - 1, 1), out="near last")
    alpha = b.op("sub", 1.0, b.exp(b.neg(near * lengths(b, depths))), out="alpha")
    passing = b.cumprod(b.op("sub", 1.0 + LEAST, alpha), axis=2, out="passing")
    passing = b.pad(passing, axis=2, before=1, after=0, value=1.0, out="passing")
    opaque = b.cast(b.greater(last, 0.0), to="f32", out="opaque")
    return b.mul(b.concat(alpha, opaque, axis=2), passing, out=out)  # type: ignore[no-any-return]


def further_depths(b: Builder, weights: Var, depths: Var, places: Var) -> Var:
    """f32[B, P, M]: depths drawn where a ray shows most, by `places` [B or 1, P or 1, M] between 0 and 1.

    The density is constant between the middles of neighbouring `depths`, and in proportion to the weights f32[B, P, N]
    of the points between these (NeRF, section 5.2).
    """
    count = int(weights.shape[2])
    middles = b.mul(lengths(b, depths), 0.5) + b.slice(depths, axis=2, start=0, stop=count - 1)
    p = b.slice(weights, axis=2, start=1, stop=count - 1) + 2e-5
    p = b.div(p, b.sum(p, axes=(2,), keepdims=True), out="p")
    below = b.op("sub", b.cumsum(p, axis=2), p, out="below")
    inner, more = count - 2, int(places.shape[2])
    # How far each draw reaches into each interval: the inverse of a piecewise linear distribution function.
    p, below, width = (b.reshape(x, shape=(x.shape[0], x.shape[1], 1, inner)) for x in (p, below, lengths(b, middles)))
    drawn = b.reshape(places, shape=(*places.shape[:2], more, 1))
    share = b.clamp(b.div(b.op("sub", drawn, below), p), low=0.0, high=1.0, out="share")
    first = b.slice(middles, axis=2, start=0, stop=1)
    return b.add(first, b.sum(share * width, axes=(3,), keepdims=False), out="further")  # type: ignore[no-any-return]


def through_cube(b: Builder, origin: Var, directions: Var) -> tuple[Var, Var]:
    """f32[B, P, 1] each: the depth at which rays enter the cube [-1, 1]^3, and their length in it, 0 if they miss it.

    Origins [B, 1 or P, 3] and directions [B, P, 3].
    """
    tiny = b.less(b.abs(directions), 1e-9)
    slope = b.where(tiny, b.scalar(1e-9, directions), directions, out="slope")
    planes = [b.div(b.op("sub", side, origin), slope, out=f"plane_{i}") for i, side in enumerate((-1.0, 1.0))]
    near = b.max(b.minimum(*planes), axes=(2,), keepdims=True, out="near")
    far = b.neg(b.max(b.neg(b.maximum(*planes)), axes=(2,), keepdims=True), out="far")
    return near, b.relu(b.op("sub", far, near), out="length")
