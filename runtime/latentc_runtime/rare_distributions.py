"""Functions that draw the distributions of few models; distributions.py has their rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime import noise
from latentc_runtime.noise import Seeds

Array = NDArray[Any]
Index = int | Sequence[int]


def _column(parameter: ArrayLike, shape: Sequence[int]) -> Array:
    """A parameter as f64 that broadcasts over [..., B, *shape]."""
    values = np.asarray(parameter, np.float64)
    return values.reshape(*values.shape, *[1] * len(shape)) if values.ndim else values


def _open_uniforms(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, attempt: int = 0) -> Array:
    """Uniforms in (0, 1) with 32 bits, float64."""
    return (noise.words(seeds, stream, shape, index, attempt).astype(np.float64) + 0.5) * 2.0**-32


def truncated_normal(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, bound: ArrayLike) -> Array:
    """Standard normals within [-bound, bound]; for an infinite bound the values of `normal`.

    With u the stream's uniforms, P the normal CDF and t the bound: the inverse of P at P(-t) + u (P(t) - P(-t)), in
    float64.
    """
    keys = noise.seed_words(seeds)
    bounds = np.broadcast_to(np.asarray(bound, np.float64), keys.shape)
    lead = np.shape(index)
    made = np.empty((*lead, len(keys), *shape), np.float32)
    rows = made.reshape(-1, len(keys), math.prod(shape))
    free = np.isinf(bounds)
    if free.any():
        rows[:, free] = noise.normals(keys[free], stream, shape, index).reshape(len(rows), -1, rows.shape[2])
    uniform = noise.uniforms(keys[~free], stream, shape, index).astype(np.float64).reshape(len(rows), -1, rows.shape[2])
    curve = NormalDist()
    for place, (sample, limit) in enumerate(zip(np.flatnonzero(~free), bounds[~free].tolist(), strict=True)):
        low = curve.cdf(-limit)
        places = low + uniform[:, place] * (1.0 - 2.0 * low)
        values = np.fromiter(map(curve.inv_cdf, places.ravel().tolist()), np.float64, places.size)
        rows[:, sample] = np.clip(values, -limit, limit).reshape(places.shape)
    return made


def uniform_between(
    seeds: Seeds, stream: str, shape: Sequence[int], index: Index, low: ArrayLike, high: ArrayLike
) -> Array:
    first, last = _column(low, shape), _column(high, shape)
    made: Array = first + (last - first) * noise.uniforms(seeds, stream, shape, index).astype(np.float64)
    return made


def log_uniform(
    seeds: Seeds, stream: str, shape: Sequence[int], index: Index, low: ArrayLike, high: ArrayLike
) -> Array:
    first = _column(low, shape)
    made: Array = first * (_column(high, shape) / first) ** noise.uniforms(seeds, stream, shape, index)
    return made


def power_law(
    seeds: Seeds,
    stream: str,
    shape: Sequence[int],
    index: Index,
    low: ArrayLike,
    high: ArrayLike,
    power: ArrayLike,
) -> Array:
    exponent = 1.0 - _column(power, shape)
    first, last = _column(low, shape) ** exponent, _column(high, shape) ** exponent
    made: Array = (first + (last - first) * noise.uniforms(seeds, stream, shape, index)) ** (1.0 / exponent)
    return made


def permutation(seeds: Seeds, stream: str, shape: Sequence[int], index: Index) -> Array:
    """The last axis holds 0..n-1 in random order, that of its words."""
    return noise.words(seeds, stream, shape, index).argsort(axis=-1, kind="stable").astype(np.int64)


def gumbel(seeds: Seeds, stream: str, shape: Sequence[int], index: Index) -> Array:
    return -np.log(-np.log(_open_uniforms(seeds, stream, shape, index)))


def exponential(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, rate: ArrayLike = 1.0) -> Array:
    return -np.log(_open_uniforms(seeds, stream, shape, index)) / _column(rate, shape)


def _scaled_normal(
    seeds: Seeds, stream: str, shape: Sequence[int], index: Index, mean: ArrayLike, std: ArrayLike
) -> Array:
    z = noise.normals(seeds, stream, shape, index).astype(np.float64)
    return _column(mean, shape) + _column(std, shape) * z


def normal_between(
    seeds: Seeds,
    stream: str,
    shape: Sequence[int],
    index: Index,
    mean: ArrayLike,
    std: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
) -> Array:
    """Normals between their quantiles `low` and `high`, by the inverse of the CDF at the stream's uniforms."""
    first, last = _column(low, shape), _column(high, shape)
    places = first + (last - first) * _open_uniforms(seeds, stream, shape, index)
    z = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])(places)
    made: Array = _column(mean, shape) + _column(std, shape) * z
    return made


def log_normal(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, mean: ArrayLike, std: ArrayLike) -> Array:
    return np.exp(_scaled_normal(seeds, stream, shape, index, mean, std))


def logit_normal(
    seeds: Seeds, stream: str, shape: Sequence[int], index: Index, mean: ArrayLike, std: ArrayLike
) -> Array:
    return 1.0 / (1.0 + np.exp(-_scaled_normal(seeds, stream, shape, index, mean, std)))


def beta(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, a: ArrayLike, b: ArrayLike) -> Array:
    """A / (A + B) for gamma variables A and B, which use even and odd attempts."""
    first = _gamma(seeds, stream, shape, index, _column(a, shape), 0)
    second = _gamma(seeds, stream, shape, index, _column(b, shape), 1)
    made: Array = first / (first + second)
    return made


def _gamma(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, alpha: Array, lane: int) -> Array:
    """Gamma variables of shape alpha by rejection (Marsaglia and Tsang, "A Simple Method", 2000)."""
    attempts = itertools.count(lane, 2)

    def uniform() -> Array:
        return _open_uniforms(seeds, stream, shape, index, next(attempts))

    small = alpha < 1.0
    boost = np.where(small, uniform() ** (1.0 / alpha), 1.0)
    d = np.where(small, alpha + 1.0, alpha) - 1.0 / 3.0
    found = np.zeros_like(boost)
    waiting = np.ones(boost.shape, bool)
    while waiting.any():
        x = np.sqrt(-2.0 * np.log(uniform())) * np.cos(2.0 * math.pi * uniform())
        v = (1.0 + x / np.sqrt(9.0 * d)) ** 3
        positive = np.where(v > 0.0, v, 1.0)
        fits = (v > 0.0) & (np.log(uniform()) < 0.5 * x * x + d * (1.0 - v + np.log(positive)))
        found = np.where(waiting & fits, d * v, found)
        waiting &= ~fits
    made: Array = found * boost
    return made


def bernoulli(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, probability: ArrayLike) -> Array:
    return (_open_uniforms(seeds, stream, shape, index) < _column(probability, shape)).astype(np.float32)


def categorical(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, weights: Sequence[float]) -> Array:
    """Category k with probability weights[k] / sum(weights): the inverse of the cumulative sum at one uniform."""
    edges = np.cumsum(np.asarray(weights, np.float64))
    places = _open_uniforms(seeds, stream, shape, index) * edges[-1]
    made: Array = np.minimum(np.searchsorted(edges, places, side="right"), len(edges) - 1)
    return made
