"""Point clouds: a PNG with a plot of each, or the arrays."""

import numpy as np

from latentc_runtime.media.files import Array, Field, Writer, npz
from latentc_runtime.media.pixels import Pixels, arranged, grid, png, require_finite

SIDE, MARGIN = 160, 8  # pixels
AZIMUTH, ELEVATION = np.radians(30), np.radians(20)


def project(points: Array) -> tuple[Array, Array, Array]:
    """(right, up, nearness) of points [..., D], each [...]: the plane for D = 2, otherwise an oblique view from above.

    The third coordinate points up; further coordinates are not shown.
    """
    if points.shape[-1] < 3:
        x = points[..., 0]
        return x, points[..., 1] if points.shape[-1] > 1 else np.zeros_like(x), np.zeros_like(x)
    x, y, z = (points[..., i] for i in range(3))
    right = x * np.cos(AZIMUTH) + y * np.sin(AZIMUTH)
    away = y * np.cos(AZIMUTH) - x * np.sin(AZIMUTH)
    up = z * np.cos(ELEVATION) + away * np.sin(ELEVATION)
    return right, up, z * np.sin(ELEVATION) - away * np.cos(ELEVATION)


def pictures(samples: Array, field: Field) -> Pixels:
    """A plot of each cloud, u8[B, SIDE, SIDE, 3], scaled to fit; nearer points are darker."""
    require_finite(samples)
    clouds = arranged(samples, field, ("point", "coordinate")).astype(np.float64)
    plots = np.full((len(clouds), SIDE, SIDE, 3), 255, np.uint8)
    for plot, (right, up, near) in zip(plots, map(project, clouds), strict=True):
        extent = max(np.ptp(right), np.ptp(up)) or 1
        scale = (SIDE - 2 * MARGIN) / extent
        columns = np.round((right - (right.max() + right.min()) / 2) * scale + SIDE / 2).astype(int)
        rows = np.round(SIDE / 2 - (up - (up.max() + up.min()) / 2) * scale).astype(int)
        depth = (near - near.min()) / (np.ptp(near) or 1) if np.ptp(near) else np.ones_like(near)
        ink = (np.array([175, 200, 230]) + depth[:, None] * (np.array([20, 70, 140]) - [175, 200, 230])).astype(int)
        for i in np.argsort(near):  # far ones first
            plot[rows[i] - 1 : rows[i] + 1, columns[i] - 1 : columns[i] + 1] = ink[i]
    return plots


def sheet(samples: Array, field: Field, columns: int) -> bytes:
    """A PNG of all plots."""
    return png(grid(pictures(samples, field), columns, gap=2))


FORMATS: dict[str, Writer] = {".npz": npz, ".png": sheet}
