"""Names of the constant arrays of an emitted file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from latentc.emit.text import free_name

LARGE = 256
"""Constants with more elements are written to constants.safetensors."""


class Constants(dict[str, np.ndarray[Any, Any]]):
    """Constant arrays by name."""

    def add(self, wanted: str, array: np.ndarray[Any, Any], taken: Collection[str] = ()) -> str:
        """The name of an array: `wanted`, numbered if that is taken or is the name of a different array."""
        name = free_name(wanted, {*taken, *(n for n, other in self.items() if not _equal(other, array))})
        self[name] = array
        return name


def _equal(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
