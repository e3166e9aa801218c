"""Samples are decoded by the first stage, and written as images."""

import image
from config import load_config
from files import Array, Field, Writer, npz
from first_stage import decode

IMAGE = {"medium": "image", "axes": ["channel", "height", "width"], "range": [-1, 1]}


def sheet(samples: Array, field: Field, columns: int) -> bytes:
    """A PNG of all samples, row by row."""
    return image.sheet(decode(samples, load_config([])["data"]), IMAGE, columns)


FORMATS: dict[str, Writer] = {".png": sheet, ".npz": npz}
