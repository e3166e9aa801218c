"""Pictures as PNG files, by Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from latentc.datasets.image_files import picture_from_file
from latentc.diagnostics import DiagnosticError

Array = np.ndarray


def png_from_picture(picture: Array) -> bytes:
    """A picture u8[H, W, C] as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, "PNG", compress_level=4)
    return file.getvalue()


def picture_from_bytes(content: bytes | Path, name: str) -> Array:
    """A picture u8[H, W, C] from an image file or its bytes; grey ones have C = 1. DiagnosticError E0726."""
    try:
        picture = np.asarray(picture_from_file(content if isinstance(content, Path) else io.BytesIO(content), name))
    except ValueError as error:
        raise DiagnosticError.of("E0726", str(error)) from None
    return picture[..., None] if picture.ndim == 2 else picture


def stacked(pictures: list[Array], name: str) -> Array:
    """Pictures of one size as u8[n, H, W, C]. DiagnosticError E0726."""
    if len({picture.shape for picture in pictures}) > 1:
        shapes = " and ".join(sorted({"×".join(map(str, p.shape)) for p in pictures})[:2])
        mend = "resize them to one size and one number of channels"
        raise DiagnosticError.of("E0726", f"the pictures in {name} differ in size: {shapes}", help=mend)
    return np.stack(pictures)
