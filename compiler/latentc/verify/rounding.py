"""Widens tolerances to what float32 can reach, by how far the oracle itself is off in float32.

A Fourier embedding of t = 999 or a flow of many blocks loses more digits than the usual tolerance allows, in any order
of the sums. Two measurements show how many: the oracle in float32, and the oracle in float64 with weights and inputs
moved by their last digit in float32, since a single run in float32 may be right by luck. Results that are off by a
small multiple of the larger are rounded, not wrong.

A program of many steps may be chaotic: every step multiplies the errors of those before it, until rounding decides the
sample. But samples are independent, and some are not: `sample_roundings` finds those that can be compared.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentc.ir.interpret import Interpreter
from latentc.measure.subject import Subject
from latentc.verify.report import ORACLE, Comparison

Arrays = Sequence[np.ndarray[Any, Any]]

FACTOR = 4.0
"""Multiple of the oracle's own rounding error that a result in float32 may have: engines sum in another order."""

MOST = 1e-2
"""Largest rounding error that excuses anything; beyond it, float32 results say nothing."""


MOVES = 3
"""Runs with moved weights and inputs that decide whether rounding decides a sample: one may be right by luck."""


def rounding_error(
    subject: Subject,
    run: Callable[[Interpreter, Arrays], Arrays],
    operands: Arrays,
    exact: Arrays,
    error: Callable[[Arrays, Arrays], float],
) -> float:
    """The larger `error(run(oracle, operands), exact)` of two roundings of the subject; no unit, as `error` has none.

    One oracle computes in float32; the other in float64, every weight and operand moved by its last float32 digit.
    """
    return max(error(result, exact) for result in _rounded(subject, run, operands, 1))


def sample_roundings(
    subject: Subject, run: Callable[[Interpreter, Arrays], Arrays], operands: Arrays, exact: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """f64[B]: of each sample, the largest rounding error of its one output `exact` [B, ...], relative to its own size.

    As `rounding_error`, with several oracles whose weights and operands are moved; infinite if it is not finite.
    """
    rows = exact.reshape(len(exact), -1)
    size = np.max(np.abs(rows), axis=1, initial=np.finfo(np.float64).tiny)
    found = [
        np.max(np.abs(result.reshape(rows.shape).astype(np.float64) - rows), axis=1, initial=0.0) / size
        for (result,) in _rounded(subject, run, operands, MOVES)
    ]
    return np.nan_to_num(np.max(found, axis=0), nan=np.inf)  # type: ignore[no-any-return]


def _rounded(
    subject: Subject, run: Callable[[Interpreter, Arrays], Arrays], operands: Arrays, moves: int
) -> Iterator[Arrays]:
    """The results in float32, then `moves` times in float64 with everything moved."""
    yield run(subject.oracle_with({}, "f32"), operands)
    chance = np.random.default_rng(0)
    for _ in range(moves):
        weights = {name: moved(array, chance) for name, array in subject.measured.items()}
        yield run(subject.oracle_with(weights), [moved(x, chance) for x in operands])


def moved(array: np.ndarray[Any, Any], chance: np.random.Generator) -> np.ndarray[Any, Any]:
    """Floats times 1 + 2^-23 or 1 - 2^-23 at random; other arrays as they are."""
    if array.dtype not in (np.float32, np.float64):
        return array
    return array * (1.0 + 2.0**-23 * chance.choice([-1.0, 1.0], array.shape))


def with_rounding(compared: Sequence[Comparison], rounding: Callable[[], float]) -> list[Comparison]:
    """The comparisons, those that fail repeated with a tolerance from `rounding()`, the oracle's own rounding error.

    Two results that are both rounded may be twice as far apart. An error above `MOST` excuses nothing, but is noted.
    """
    if all(c.ok for c in compared) or (own := rounding()) <= 0:
        return list(compared)
    if own > MOST:
        return [c if c.ok else replace(c, rounding=own) for c in compared]
    return [c if c.ok else _again(c, own) for c in compared]


def _again(c: Comparison, rounding: float) -> Comparison:
    tolerance = FACTOR * rounding * (1 if c.reference == ORACLE else 2)
    if tolerance <= c.tolerance:
        return c
    return replace(c, tolerance=tolerance, ok=c.error <= tolerance, rounding=rounding)
