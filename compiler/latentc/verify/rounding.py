"""Widens tolerances to what float32 can reach, by the oracle's own error in float32.

A Fourier embedding of t = 999 or a flow of many blocks loses more digits than the usual tolerance allows, in any order
of the sums. The oracle in float32 shows how many: results that are off by a small multiple of its error are rounded,
not wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from latentc.verify.report import ORACLE, Comparison

FACTOR = 4.0
"""Multiple of the float32 oracle's error that a result in float32 may have: engines sum in another order."""

MOST = 1e-2
"""Largest error of the float32 oracle that counts as rounding; beyond it, float32 results say nothing."""


def with_rounding(compared: Sequence[Comparison], rounding: Callable[[], float]) -> list[Comparison]:
    """The comparisons, those that fail repeated with a tolerance from `rounding()`, the float32 oracle's error.

    Two results that are both rounded may be twice as far apart.
    """
    if all(c.ok for c in compared) or not 0 < (own := rounding()) <= MOST:
        return list(compared)
    return [c if c.ok else _again(c, own) for c in compared]


def _again(c: Comparison, rounding: float) -> Comparison:
    tolerance = FACTOR * rounding * (1 if c.reference == ORACLE else 2)
    if tolerance <= c.tolerance:
        return c
    return replace(c, tolerance=tolerance, ok=c.error <= tolerance, rounding=rounding)
