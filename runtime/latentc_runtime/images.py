"""Samples as pictures: arrays or tokens to bytes, many pictures to a grid, a grid to PNG.

Symbols: B batch, C channels, H height, W width, T tokens.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Output

Bytes = NDArray[np.uint8]


def images_from_samples(samples: NDArray[Any], output: Output) -> Bytes:
    """Samples [B, C, H, W] or [B, T] as pictures u8[B, H, W, C].

    Arrays go linearly from `output.range` to 0..255, clipped; token v goes to 255 v / (levels - 1); both
    rounded to the nearest. Raises BundleError E0612 where the samples are not pictures.
    """
    samples = np.asarray(samples)
    if samples.shape[1:] != output.shape:
        wanted = ", ".join(map(str, ("B", *output.shape)))
        raise BundleError("E0612", f"samples have shape [{wanted}], not {list(samples.shape)}")
    if output.tokens is not None:
        return _images_from_tokens(samples, output.tokens.levels, output.tokens.image)
    if output.range is None or len(output.shape) != 3:
        raise BundleError(
            "E0612",
            "the samples of this bundle are no pictures (latents or codes of a first stage)",
            "take the arrays as they are, or compile the spec with its decoder",
        )
    if not np.isfinite(samples).all():
        bad = int(np.flatnonzero(~np.isfinite(samples).reshape(len(samples), -1).all(axis=1))[0])
        raise BundleError(
            "E0612",
            f"sample {bad} holds values that are not finite numbers",
            "try a smaller guidance scale, or a bundle compiled with more precision",
        )
    low, high = output.range
    levels = (samples.astype(np.float64) - low) * (255 / (high - low))
    pixels: Bytes = np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _images_from_tokens(tokens: NDArray[Any], levels: int, image: tuple[int, int, int]) -> Bytes:
    if tokens.dtype.kind not in "iu":
        raise BundleError("E0612", f"tokens are whole numbers, not {tokens.dtype}")
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < levels:
        raise BundleError("E0612", f"a token is outside 0 to {levels - 1}, the grey levels of the data")
    palette = np.floor(np.arange(levels) * (255 / (levels - 1)) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(palette[tokens].reshape(-1, *image).transpose(0, 2, 3, 1))


def grid(images: Bytes, columns: int, gap: int = 0) -> Bytes:
    """Pictures u8[B, H, W, C] side by side, row after row: u8[rows (H + gap) - gap, ..., C].

    `gap`: white pixels between pictures. The last row is filled up with white. Raises BundleError E0612.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise BundleError("E0612", "a grid is made of one or more pictures, u8[B, H, W, C]")
    if columns < 1 or gap < 0:
        raise BundleError("E0612", "a grid has 1 or more columns and a gap of 0 or more pixels")
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), 255, np.uint8)
    cells[:count, :height, :width] = images
    cells = cells.reshape(rows, columns, height + gap, width + gap, channels).swapaxes(1, 2)
    whole = cells.reshape(rows * (height + gap), columns * (width + gap), channels)
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap].copy()


def png(image: Bytes) -> bytes:
    """One picture u8[H, W, C], C = 1 grey or 3 RGB, as a PNG file. Raises BundleError E0612.

    Source: Portable Network Graphics specification, third edition, W3C 2025.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[2] not in (1, 3) or image.size == 0:
        raise BundleError("E0612", "a PNG is made of one picture, u8[H, W, 1] or u8[H, W, 3]")
    height, width, channels = image.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # a filter byte (none) before each line
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
