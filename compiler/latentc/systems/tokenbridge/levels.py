"""Values of a channel between which it is quantised."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from latentc.ir.builder import Builder, Var


@cache
def level_values(levels: int, span: float, deviations: float) -> tuple[float, ...]:
    """The values of `levels` levels in [-span, span]: means of a standard normal between its quantiles, clipped to
    +-`deviations`, scaled by span / deviations.
    """
    normal = NormalDist()
    inner = [normal.inv_cdf(i / levels) for i in range(1, levels)]
    edges = [max(-deviations, min(deviations, edge)) for edge in (-math.inf, *inner, math.inf)]
    means = [
        (normal.pdf(low) - normal.pdf(high)) / max(normal.cdf(high) - normal.cdf(low), 1e-10)
        for low, high in pairwise(edges)
    ]
    return tuple(mean * span / deviations for mean in means)


def nearest_level(b: Builder, x: Var, values: tuple[float, ...]) -> Var:
    """i64[...]: the level whose value is nearest to each element of x f32[...]."""
    between = np.float32((np.array(values[:-1]) + np.array(values[1:])) / 2)
    above = b.less(b.constant(between, out="between"), b.reshape(x, shape=(*x.shape, 1)))
    return b.sum(b.cast(above, to="i64"), axes=(x.type.rank,), keepdims=False, out="level")


def value_of(b: Builder, level: Var, values: tuple[float, ...]) -> Var:
    """f32[...]: the values of levels i64[...]."""
    return b.take(b.constant(np.array(values, np.float32), out="values"), level, axis=0, out="value")
