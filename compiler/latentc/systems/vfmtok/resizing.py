"""Squares resized by bicubic interpolation: learned positions of patches, and images.

Symbols: B batch, C channels, D width, s and t sides of the squares.
"""

from __future__ import annotations

import numpy as np

from latentc.components.kit.bicubic import Matrix, bicubic_matrix, cubic
from latentc.ir.builder import Builder, Var


def resized_positions(
    b: Builder, table: Var, side: int, wanted: int, offset: float = 0.0, antialias: bool = False, out: str = "places"
) -> Var:
    """f32[1, s s, D] as f32[1, t t, D], s = `side` and t = `wanted`, by `bicubic_matrix`; the same if s = t."""
    if side == wanted:
        return table
    width = table.shape[2]
    matrix = b.constant(bicubic_matrix(int(side), int(wanted), offset, antialias), out="resizing")
    rows = b.matmul(matrix, b.reshape(table, shape=(side, side * width)), out="rows")
    rows = b.reshape(rows, shape=(wanted, side, width), out="rows")
    cells = b.matmul(b.reshape(matrix, shape=(1, wanted, side)), rows, out="cells")
    return b.reshape(cells, shape=(1, wanted * wanted, width), out=out)


def image_matrix(side: int, wanted: int) -> Matrix:
    """f64[t, s]: what an axis of an image of `side` pixels is multiplied by to have `wanted` ones.

    Pixels at the ends stay at the ends. A smaller image is of one that a Gaussian has blurred, of deviation
    (s / t - 1) / 2, at the edges mirrored, as in kornia's `resize` and skimage's.
    """
    step = (side - 1) / (wanted - 1)
    matrix = np.zeros((wanted, side))
    for row in range(wanted):
        centre = row * step
        first = int(np.floor(centre))
        for cell in range(first - 1, first + 3):
            matrix[row, min(max(cell, 0), side - 1)] += cubic(centre - cell, -0.75)
    return matrix @ _blur(side, side / wanted) if side > wanted else matrix


def _blur(side: int, factor: float) -> Matrix:
    """f64[s, s]: a Gaussian blur of `side` pixels that are to be `factor` times as few."""
    deviation = max((factor - 1) / 2, 0.001)
    reach = int(max(4 * deviation, 3)) // 2
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * deviation**2))
    matrix = np.zeros((side, side))
    for row in range(side):
        mirrored = np.abs(row + offsets)
        np.add.at(matrix[row], np.minimum(mirrored, 2 * (side - 1) - mirrored), kernel / kernel.sum())
    return matrix


def resized_image(b: Builder, x: Var, wanted: int) -> Var:
    """x f32[B, C, s, s] as f32[B, C, t, t], t = `wanted`; see `image_matrix`."""
    side = int(x.shape[3])
    if side == int(wanted):
        return x
    matrix = b.constant(image_matrix(side, int(wanted)), out="resizing")
    rows = b.matmul(matrix, x, out="rows")
    return b.matmul(rows, b.transpose(matrix, perm=(1, 0)), out="seen")
