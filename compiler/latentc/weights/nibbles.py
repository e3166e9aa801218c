"""Numbers of 4 bits, two per byte, as stored in ONNX files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

FOUR_BITS = ("i4", "f4e2m1")
"""Dtypes that are stored two per byte; in memory numpy has one per byte, in its low half."""


def packed(array: Array) -> Array:
    """The stored form of an array: itself, or u8 with two 4-bit numbers per byte, the first in the low half."""
    if array.dtype not in (ml_dtypes.int4, ml_dtypes.float4_e2m1fn):
        return array
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & 15
    flat = np.pad(flat, (0, flat.size % 2))
    return flat[::2] | flat[1::2] << 4


def unpacked(array: Array, shape: Sequence[int], dtype: Any = ml_dtypes.int4) -> Array:
    """The inverse of `packed` for numbers of a 4-bit dtype."""
    flat = np.stack([array & 15, array >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
    if dtype == ml_dtypes.int4:
        return ((flat ^ 8).astype(np.int8) - 8).reshape(shape).astype(ml_dtypes.int4)
    return np.ascontiguousarray(flat).view(dtype).reshape(shape)
