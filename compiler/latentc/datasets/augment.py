"""Geometric augmentation of images, each described by up to nine numbers that condition the network.

The pipeline of EDM (Karras et al. 2022, arXiv:2206.00364, appendix F.2): each transformation is applied with
probability `p`, mirroring always; images are resampled at twice their size with the orthogonal wavelet sym6.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Kinds of augmentation in the order of their labels, and the labels of each: flags, logarithms in standard deviations,
# an angle's cosine - 1 and sine, a stretch along x and y of its axes, shifts in standard deviations.
LABELS = {"mirror": [0], "upside_down": [1], "scale": [2], "rotation": [3, 4], "stretch": [5, 6], "shift": [7, 8]}
# Low-pass filter of the wavelet sym6 (Daubechies 1992): orthogonal to its own shifts by two; its centre is tap 5.
SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)
CENTER = 5
MARGIN = 6  # pixels that the two filters reach beyond the outermost sampled one


def columns_of(kinds: Collection[str]) -> list[int]:
    """Which of the nine labels describe augmentations of these kinds, in ascending order."""
    return [column for kind, columns in LABELS.items() if kind in kinds for column in columns]


def augmented(
    images: Array, axes: tuple[int, int, int], p: float, kinds: Collection[str], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Images [n, ...] transformed, and their labels f32[n, L]; `axes` are the batch's channel, height and width."""
    channels_first = np.moveaxis(images, axes, (1, 2, 3))
    pairs = [transformed(image, *drawn(p, kinds, image.shape[1], image.shape[2], rng)) for image in channels_first]
    found = np.stack([image for image, _ in pairs]).astype(np.float32)
    labels = np.stack([label for _, label in pairs])[:, columns_of(kinds)]
    return np.moveaxis(found, (1, 2, 3), axes), labels.astype(np.float32)


def drawn(
    p: float, kinds: Collection[str], height: int, width: int, rng: np.random.Generator
) -> tuple[bool, bool, Array, Array]:
    """(mirrored, upside down, map f64[2, 3] from a result's coordinates to the image's, labels f64[9]).

    Coordinates are pixels (x, y) from the middle of the image. Kinds that are left out are drawn as well, but not
    applied: those left are the same.
    """
    flips, used = rng.integers(2, size=2), rng.random(6) < [p, p, p, p, p, 0.5]
    flip, scaled, stretched, shifted, turned = (
        used[i] and kind in kinds for i, kind in enumerate(("upside_down", "scale", "stretch", "shift", "rotation"))
    )
    mirrored, upside_down = bool(flips[0]) and "mirror" in kinds, bool(flips[1] and flip)
    scale, stretch = rng.standard_normal(2) * [scaled, stretched]
    shift = rng.standard_normal(2) * shifted
    angle, along = rng.uniform(-np.pi, np.pi, 2) * [turned, used[5]]
    squeeze = np.diag([2.0 ** (-0.2 * stretch), 2.0 ** (0.2 * stretch)])
    linear = 2.0 ** (-0.2 * scale) * rotation(angle) @ rotation(-along) @ squeeze @ rotation(along)
    offset = -linear @ (0.125 * shift * [width, height])
    labels = [mirrored, upside_down, scale, np.cos(angle) - 1, np.sin(angle)]
    labels += [stretch * np.cos(along), stretch * np.sin(along), *shift]
    return mirrored, upside_down, np.column_stack([linear, offset]), np.array(labels)


def rotation(angle: float) -> Array:
    """The matrix that turns (x, y) by `angle`."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def transformed(image: Array, mirrored: bool, upside_down: bool, place: Array, labels: Array) -> tuple[Array, Array]:
    """An image [C, H, W] flipped, then resampled: the pixel at p shows what was at place @ (p, 1)."""
    image = image[..., ::-1] if mirrored else image
    image = image[:, ::-1] if upside_down else image
    return (image if not labels[2:].any() else resampled(image, place)), labels


def resampled(image: Array, place: Array) -> Array:
    """An image [C, H, W] moved by `place` [2, 3]; beyond its edges it is reflected."""
    _, height, width = image.shape
    middle = np.array([width - 1, height - 1]) / 2
    corners = place @ (np.array([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]]) * [[middle[0]], [middle[1]], [1]])
    reach = np.ceil(np.abs(corners).max(axis=1) + MARGIN - middle).astype(int)
    mx, my = reach.clip(0, [width - 1, height - 1])
    fine = np.pad(image, ((0, 0), (my, my), (mx, mx)), "reflect")
    fine = upsampled(upsampled(fine).swapaxes(1, 2)).swapaxes(1, 2)
    # Positions of the result's fine pixels, in pixels from its centre; then the positions that they show in the image.
    x, y = ((np.arange(2 * n + 10) - CENTER) / 2 - c for n, c in zip((width, height), middle, strict=True))
    shown = np.tensordot(place, np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))]), 1)
    columns, rows = (2 * (shown[i] + middle[i] + m) + CENTER for i, m in enumerate((mx, my)))
    result = bilinear(fine, rows, columns)
    return downsampled(downsampled(result).swapaxes(1, 2)).swapaxes(1, 2)


def upsampled(x: Array) -> Array:
    """Twice as many pixels along the last axis: zeros in between, then the filter; [..., n] -> [..., 2 n + 10]."""
    result = np.zeros((*x.shape[:-1], 2 * x.shape[-1] + 10))
    for k, weight in enumerate(SYM6):
        result[..., k : k + 2 * x.shape[-1] - 1 : 2] += weight * x
    return result


def downsampled(x: Array) -> Array:
    """Half as many pixels along the last axis, filtered; [..., 2 n + 10] -> [..., n]."""
    count = (x.shape[-1] - 10) // 2
    return sum(weight * x[..., k : k + 2 * count - 1 : 2] for k, weight in enumerate(SYM6))


def bilinear(x: Array, rows: Array, columns: Array) -> Array:
    """x [C, H, W] at fractional positions; zero outside."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    rows, columns = (np.clip(v + 1, 0, n - 1.001) for v, n in ((rows, padded.shape[1]), (columns, padded.shape[2])))
    i, j = rows.astype(int), columns.astype(int)
    a, b = rows - i, columns - j
    above = padded[:, i, j] * (1 - b) + padded[:, i, j + 1] * b
    below = padded[:, i + 1, j] * (1 - b) + padded[:, i + 1, j + 1] * b
    return above * (1 - a) + below * a
