"""How far results are from a reference: relative error, PSNR, agreement; and wall-clock times of alternating calls."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray

BEST = 200.0
"""PSNR in dB that stands for no difference at all."""


def relative_error(result: Array, reference: Array, least: float = 0.0) -> float:
    """max|result - reference| / max|reference|, the divisor at least `least`; of integers the share that differs.

    Infinite if shapes differ or a value is not finite, and for any difference from a reference of zeros.
    """
    if result.shape != reference.shape:
        return math.inf
    if result.size == 0:
        return 0.0
    if reference.dtype.kind not in "f":
        return float(np.mean(result != reference))
    worst = float(np.max(np.abs(np.asarray(result, np.float64) - reference)))
    if worst == 0.0:
        return 0.0
    scale = max(float(np.max(np.abs(reference))), least)
    return worst / scale if math.isfinite(worst) and 0 < scale < math.inf else math.inf


def psnr(samples: Array, reference: Array, span: float | None = None) -> float:
    """10 log10(span² / mean squared error) in dB; `span`: width of the value range, by default the reference's.

    -`BEST` if a value is not finite, `BEST` if nothing differs.
    """
    exact = reference.astype(np.float64)
    error = float(np.mean((samples.astype(np.float64) - exact) ** 2))
    if not math.isfinite(error):
        return -BEST
    span = float(np.ptp(exact)) if span is None else span
    if error == 0.0:
        return BEST
    return float(np.clip(20 * math.log10(span) - 10 * math.log10(error), -BEST, BEST)) if span > 0 else -BEST


def agreement(logits: Array, reference: Array) -> float:
    """The share of positions with the same likeliest token, of logits [..., V]."""
    return float(np.mean(logits.argmax(-1) == reference.argmax(-1)))


def alternated(
    calls: Sequence[Callable[[], object]], seconds: float, fewest: int = 3, most: int = 50
) -> list[list[float]]:
    """Wall-clock seconds of each repetition of every call, for about `seconds` in all.

    The calls take turns, every second round in reverse, so that a machine that slows down slows all of them.
    """
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    for round_ in itertools.count():
        if round_ >= fewest and (round_ >= most or time.perf_counter() >= end):
            return times
        for i in range(len(calls))[:: -1 if round_ % 2 else 1]:
            begin = time.perf_counter()
            calls[i]()
            times[i].append(time.perf_counter() - begin)
    raise AssertionError("unreachable")


__all__ = ["BEST", "agreement", "alternated", "psnr", "relative_error"]
