"""Samples to pixels: arrange axes, scale to bytes, lay pictures out in a grid, encode PNG.

Properties of a field that are used: `axes`, names of the sample's axes in order; `range`, the values shown as black and
white, or `classes` for tokens from 0 to classes - 1; `grid`, the grid that a sequence of tokens fills.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentc_runtime.media.files import Array, Field

Pixels = NDArray[np.uint8]


class NotFinite(ValueError):
    """A sample holds a value that is infinite or not a number."""


def arranged(samples: Array, field: Field, axes: Sequence[str]) -> Array:
    """Samples [B, ...] with their axes in the given order; axes that the field lacks get size 1."""
    names = list(field["axes"])
    if grid := field.get("grid"):
        samples = samples.reshape(len(samples), *grid)
        names = ["frame", "height", "width"][-len(grid) :]
    for name in axes:
        if name not in names:
            samples, names = samples[..., None], [*names, name]
    return samples.transpose(0, *(1 + names.index(name) for name in axes))


def bytes_of(samples: Array, field: Field) -> Pixels:
    """Samples scaled linearly from the field's range to 0..255, rounded and clipped. Raises ValueError."""
    if field.get("classes"):
        low, high = 0, max(field["classes"] - 1, 1)
        if samples.dtype.kind not in "iu":
            raise ValueError(f"tokens must be integers, not {samples.dtype}")
        if samples.size and not 0 <= samples.min() <= samples.max() <= high:
            raise ValueError(f"a token is outside 0 to {high}")
    else:
        low, high = field["range"]
        require_finite(samples)
    levels = (samples.astype(np.float64) - low) * (255 / (high - low))
    pixels: Pixels = np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def require_finite(samples: Array) -> None:
    """Raise NotFinite with the first sample that holds a value that is not finite."""
    finite = np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
    if not finite.all():
        raise NotFinite(f"sample {int(np.argmin(finite))} holds values that are not finite")


def grid(pictures: Pixels, columns: int, gap: int = 0) -> Pixels:
    """Pictures u8[B, H, W, C] as one picture, row by row: u8[rows (H + gap) - gap, columns (W + gap) - gap, C].

    `gap`: white pixels between pictures; the rest of the last row is white. Raises ValueError.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or len(pictures) == 0:
        raise ValueError("a grid needs at least one picture, u8[B, H, W, C]")
    if columns < 1 or gap < 0:
        raise ValueError("a grid needs at least 1 column and a gap of at least 0 pixels")
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), 255, np.uint8)
    cells[:count, :height, :width] = pictures
    cells = cells.reshape(rows, columns, height + gap, width + gap, channels).swapaxes(1, 2)
    whole = cells.reshape(rows * (height + gap), columns * (width + gap), channels)
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap].copy()


def png(picture: Pixels) -> bytes:
    """One picture u8[H, W, C], C = 1 (grey) or 3 (RGB), as a PNG file. Raises ValueError.

    Source: Portable Network Graphics specification, third edition, W3C 2025.
    """
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.dtype != np.uint8 or picture.shape[2] not in (1, 3) or picture.size == 0:
        raise ValueError("a PNG needs a single picture, u8[H, W, 1] or u8[H, W, 3]")
    height, width, channels = picture.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # a filter byte (none) before each line
    lines[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
