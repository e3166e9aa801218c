"""4-bit integers, two per byte, as stored in ONNX files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]


def packed(array: Array) -> Array:
    """The stored form of an array: itself, or u8 with two 4-bit integers per byte, the first in the low half."""
    if array.dtype != ml_dtypes.int4:
        return array
    flat = array.astype(np.int8).reshape(-1).view(np.uint8) & 15
    flat = np.pad(flat, (0, flat.size % 2))
    return flat[::2] | flat[1::2] << 4


def unpacked(array: Array, shape: Sequence[int]) -> Array:
    """The inverse of `packed` for 4-bit integers."""
    flat = np.stack([array & 15, array >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
    return ((flat ^ 8).astype(np.int8) - 8).reshape(shape).astype(ml_dtypes.int4)
