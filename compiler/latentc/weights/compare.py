"""Compares a tensor of a checkpoint with the value that a network has in its place."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from latentc.weights.expr import Expr, is_float
from latentc.weights.read import materialise

_RELATIVE = 2**-7  # of each element: files of wider floats may have been rounded to bfloat16
_ABSOLUTE = 1e-4  # of the largest element: float32 sines of large angles are that far off
_BLOCK = 1 << 18  # elements compared at a time


def difference_of(found: Expr, wanted: Expr) -> str | None:
    """Where `found` differs from `wanted` by more than rounding, with both values; None if it does not.

    Integers, booleans and floats of any width are compared by value. Raises as `materialise`.
    """
    if found is wanted or found == wanted:
        return None
    if found.shape != wanted.shape:
        return f"its shape is {list(found.shape)}, should be {list(wanted.shape)}"
    theirs, ours = (np.ravel(materialise(tensor)) for tensor in (found, wanted))
    exact = not any(is_float(tensor.dtype) for tensor in (found, wanted))
    relative = max([_RELATIVE, *(_epsilon(tensor.dtype) for tensor in (found, wanted))])
    largest: float | None = None
    for start in range(0, ours.size, _BLOCK):
        part, own = (array[start : start + _BLOCK] for array in (theirs, ours))
        if np.array_equal(part, own):
            continue
        part, own = part.astype(_wide(part)), own.astype(_wide(own))
        largest = _largest(ours) if largest is None else largest
        near = np.isclose(part, own, rtol=0 if exact else relative, atol=0 if exact else _ABSOLUTE * largest)
        if near.all():
            continue
        with np.errstate(invalid="ignore"):
            distance = np.where(near, -1.0, np.nan_to_num(np.abs(part - own), nan=np.inf))
        worst = int(distance.argmax())
        place = [int(axis) for axis in np.unravel_index(start + worst, found.shape)]
        at = f" at {place}" if place else ""
        return f"it is {part[worst]:.6g}{at}, should be {own[worst]:.6g}"
    return None


def _largest(array: np.ndarray) -> float:
    """The largest finite magnitude."""
    largest = 0.0
    for start in range(0, array.size, _BLOCK):
        part: np.ndarray = array[start : start + _BLOCK].astype(_wide(array))
        largest = max(largest, float(np.abs(part[np.isfinite(part)]).max(initial=0)))
    return largest


def _wide(array: np.ndarray) -> type:
    return np.complex128 if array.dtype.kind == "c" else np.float64


def _epsilon(dtype: np.dtype) -> float:
    return float(ml_dtypes.finfo(dtype).eps) if is_float(dtype) else 0.0
