"""Transformations that make a simpler image of an image: half its sides, or its edges.

Images have values from -1 to 1 at V levels, before and after; all is computed in whole levels, so that engines agree.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from latentc.ir.builder import Builder, Var

Transform = Literal["downscale", "edges"]

SOBEL = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
EDGES = 0.25
"""Level of an edge per level of Sobel's horizontal and vertical derivatives, in sum."""


def transformed(b: Builder, x: Var, kind: Transform, values: int, out: str) -> Var:
    """An image x f32[B, C, H, W] of so many levels, transformed."""
    last = values - 1
    levels = _rounded(b, (x + 1.0) * (last / 2))
    levels = _halved(b, levels) if kind == "downscale" else _edges(b, levels, last)
    return b.op("sub", levels * (2 / last), 1.0, out=out)


def side_after(side: Any, kind: Transform) -> Any:
    """The side of the image that is made of one of this side."""
    return side // 2 if kind == "downscale" else side


def _rounded(b: Builder, levels: Var) -> Var:
    return b.floor(levels + 0.5, out="levels")


def _halved(b: Builder, levels: Var) -> Var:
    """Half the sides by antialiased interpolation, rounded after each axis as Pillow does."""
    _, _, height, width = levels.shape
    levels = _rounded(b, b.resize(levels, size=(int(height), int(width) // 2), mode="antialiased"))
    return _rounded(b, b.resize(levels, size=(int(height) // 2, int(width) // 2), mode="antialiased"))


def _edges(b: Builder, levels: Var, last: int) -> Var:
    """The absolute derivatives of each channel, of an image continued by its mirror image."""
    channels = int(levels.shape[1])
    around = b.reflect_pad(levels, size=1, out="around")
    total: Var | None = None
    for kernel in (SOBEL, SOBEL.T):
        weight = b.constant(np.tile(kernel[None, None], (channels, 1, 1, 1)), "f32", out="sobel")
        one = b.abs(b.conv(around, weight, groups=channels), out="derivative")
        total = one if total is None else b.add(total, one, out="derivatives")
    assert total is not None
    return b.minimum(_rounded(b, total * EDGES), float(last), out="levels")
