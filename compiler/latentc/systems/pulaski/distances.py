"""Distances between two sets of masks, as points in a space with one axis per pixel.

Symbols: B batch, N masks that were drawn, R masks of raters, D pixels of a mask.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any, Literal

import numpy as np

from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var

Distance = Literal["sinkhorn", "energy", "hausdorff"]

BLUR, SCALING = 0.05, 0.5
"""Of the Sinkhorn divergence: the last scale, and the factor from one scale to the next (the defaults of geomloss)."""
TINY = 1e-8
"""Added to squared distances before their roots, whose derivative at 0 is infinite."""


def distance(b: Builder, kind: Distance, drawn: Var, rated: Var) -> Var:
    """f32[B]: the distance of masks `drawn` f32[B, N, D] from masks `rated` f32[B, R, D]."""
    if kind == "sinkhorn":
        return sinkhorn(b, drawn, rated)
    return energy(b, drawn, rated) if kind == "energy" else hausdorff(b, drawn, rated)


def squared(b: Builder, x: Var, y: Var, out: str = "squared") -> Var:
    """f32[B, N, R]: squared Euclidean distances of x f32[B, N, D] from y f32[B, R, D]."""
    batch, n, size = x.shape
    wide = b.reshape(x, shape=(batch, n, 1, size)), b.reshape(y, shape=(batch, 1, y.shape[1], size))
    difference = b.op("sub", *wide, out="difference")
    return b.sum(difference * difference, axes=(3,), keepdims=False, out=out)  # type: ignore[no-any-return]


def energy(b: Builder, drawn: Var, rated: Var) -> Var:
    """The energy distance (Székely and Rizzo 2013), its expectation over draws estimated without bias.

    Pairs of draws are of two different ones; all pairs of raters count, who are the whole distribution.
    """
    n, r = int(drawn.shape[1]), int(rated.shape[1])
    across = _total(b, _root(b, squared(b, drawn, rated)))
    among_drawn = _total(b, _off_diagonal(b, _root(b, squared(b, drawn, drawn)), n))
    among_rated = _total(b, _off_diagonal(b, _root(b, squared(b, rated, rated)), r))
    pairs = max(1, n * (n - 1))
    return weighted_sum(b, "energy", (2 / (n * r), across), (-1 / pairs, among_drawn), (-1 / r**2, among_rated))


def hausdorff(b: Builder, drawn: Var, rated: Var) -> Var:
    """The mean distance of a mask from the nearest one of the other set, over each set; the mean of both."""
    far = b.neg(_root(b, squared(b, drawn, rated)), out="far")
    each = [b.neg(b.mean(b.max(far, axes=(a,), keepdims=False), axes=(1,), keepdims=False)) for a in (1, 2)]
    return weighted_sum(b, "hausdorff", (0.5, each[0]), (0.5, each[1]))


def sinkhorn(b: Builder, drawn: Var, rated: Var) -> Var:
    """The Sinkhorn divergence with the cost |x - y|^2 / 2 (Feydy et al. 2019, arXiv:1810.08278), as geomloss has it.

    The entropy is lowered from the diameter of all masks to that of BLUR; the gradient is that of the last step.
    """
    n, r, size = int(drawn.shape[1]), int(rated.shape[1]), int(drawn.shape[2])
    costs = [b.mul(squared(b, x, y), 0.5, out="cost") for x, y in _pairs(drawn, rated)]
    fixed = [b.stop_gradient(cost, out="fixed") for cost in costs]
    levels = schedule(sqrt(size))
    first = float(levels[0])
    start = [_softmin(b, cost, None, first, log(count)) for cost, count in zip(fixed, (r, n, n, r), strict=True)]
    table = b.constant(levels.astype(np.float32)[:, None], out="levels")

    def step(b: Builder, i: Var, costs: Any, dual: Any, rows: Any) -> Any:
        new = _updated(b, costs, dual, rows[0], (n, r))
        return [b.mul(old + one, 0.5, out="dual") for old, one in zip(dual, new, strict=True)], ()

    names = ("f", "g", "f_own", "g_own", "level")
    dual = b.loop("sinkhorn", len(levels), step, invariants=fixed, carried=start, tables=[table], names=names)
    f, g, f_own, g_own = _updated(b, costs, [b.stop_gradient(x) for x in dual], BLUR**2, (n, r))
    parts = [b.mean(x, axes=(1,), keepdims=False) for x in (f, f_own, g, g_own)]
    return weighted_sum(b, "sinkhorn", *zip((1.0, -1.0, 1.0, -1.0), parts, strict=True))


def schedule(diameter: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The entropies of Sinkhorn's steps: squares of scales from the diameter to BLUR."""
    between = np.exp(np.arange(2 * log(diameter), 2 * log(BLUR), 2 * log(SCALING)))
    return np.concatenate([[diameter**2], between, [BLUR**2]])


def _pairs(drawn: Var, rated: Var) -> tuple[tuple[Var, Var], ...]:
    return (drawn, rated), (rated, drawn), (drawn, drawn), (rated, rated)


def _updated(b: Builder, costs: Any, dual: Any, level: Any, counts: tuple[int, int]) -> list[Var]:
    """The dual variables f32[B, N], f32[B, R] between the sets and within each, after a step."""
    (f, g, f_own, g_own), (n, r) = dual, counts
    given = ((costs[0], g, r), (costs[1], f, n), (costs[2], f_own, n), (costs[3], g_own, r))
    return [_softmin(b, cost, other, level, log(count)) for cost, other, count in given]


def _softmin(b: Builder, cost: Var, dual: Var | None, level: Any, log_count: float) -> Var:
    """f32[B, N]: the soft minimum over the last axis of cost f32[B, N, R] - dual f32[B, R], of equal weights."""
    if dual is not None:
        cost = b.op("sub", cost, b.reshape(dual, shape=(dual.shape[0], 1, dual.shape[1])), out="cost")
    inner = b.neg(b.div(cost, b.reshape(level, shape=(1, 1, 1)) if isinstance(level, Var) else level), out="inner")
    return b.mul(b.op("sub", log_count, b.logsumexp(inner, axis=2)), level, out="dual")  # type: ignore[no-any-return]


def _root(b: Builder, squares: Var) -> Var:
    return b.sqrt(squares + TINY, out="distance")  # type: ignore[no-any-return]


def _off_diagonal(b: Builder, x: Var, count: int) -> Var:
    return b.mul(x, b.constant((1 - np.eye(count))[None], "f32", out="others"), out="others")  # type: ignore[no-any-return]


def _total(b: Builder, x: Var) -> Var:
    return b.sum(x, axes=(1, 2), keepdims=False, out="total")  # type: ignore[no-any-return]
