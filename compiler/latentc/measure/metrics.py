"""How far results are from a reference, in one number; and wall-clock times of alternating calls.

Symbols: N samples, F features, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray

BEST = 200.0
"""PSNR and SQNR in dB of equal values."""


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


def relative_norm(result: Array, reference: Array) -> float:
    """‖result − reference‖ / ‖reference‖; infinite if a value is not finite, and for any difference from zeros."""
    exact = np.asarray(reference, np.float64)
    noise, signal = float(np.linalg.norm(result - exact)), float(np.linalg.norm(exact))
    if noise == 0.0:
        return 0.0
    return noise / signal if math.isfinite(noise) and signal > 0 else math.inf


def sqnr(result: Array, reference: Array) -> float:
    """Signal to quantisation noise, -20 log10 of the `relative_norm`, in dB within ±`BEST`."""
    error = relative_norm(result, reference)
    return float(np.clip(-20 * np.log10(max(error, 1e-99)), -BEST, BEST))


def mean_distance(samples: Array, reference: Array) -> float:
    """The mean distance of samples [N, …] from the reference, each a root mean square, over the reference's own.

    The mean of distances, not of their squares, in which a few samples that become another picture would dominate.
    Infinite if a value is not finite.
    """
    difference = (samples.astype(np.float64) - reference).reshape(len(samples), -1)
    if not np.all(np.isfinite(difference)):
        return math.inf
    distances = np.sqrt(np.mean(difference**2, axis=1))
    return float(np.mean(distances) / np.sqrt(np.mean(reference.astype(np.float64) ** 2)))


def frechet_distance(a: Array, b: Array) -> float:
    """`frechet_of_moments` of features [N, F] and [M, F]."""
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    return frechet_of_moments(a.mean(axis=0), cov_a, b.mean(axis=0), cov_b)


def frechet_of_moments(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|μa − μb|² + tr(Ca + Cb − 2 (Ca Cb)^½) of means [F] and covariances [F, F] (Heusel et al. 2017, equation 6).

    The trace of the root is Σ √λ of Ca^½ Cb Ca^½, which is symmetric: features that are always zero make Ca Cb
    singular, and a general matrix root fails on it.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    mixed = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    difference = mean_a - mean_b
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * mixed)


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
