"""The drift of samples in a space of features: towards data, away from each other and from negatives.

Symbols: B problems, G samples, N negatives, P positives, Y = G + N + P targets, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var

OWN = 100.0
"""Added to the distance of a sample from itself, in units of the mean distance."""
LEAST_SCALE, LEAST_SQUARE, LEAST_AFFINITY, LEAST_FORCE = 1e-3, 1e-8, 1e-6, 1e-8


def drift_error(
    b: Builder, samples: Var, positives: Var, negatives: Var, weights: Var, temperatures: Sequence[float]
) -> tuple[Var, Var]:
    """(mean squared distance of samples from where they drift to f32[B], the mean squared force f32[]).

    Samples f32[B, G, D], positives f32[B, P, D], negatives f32[B, N, D]; the weights f32[B, Y] of samples, negatives
    and positives, in this order. Targets have no gradient (Deng et al. 2026, arXiv:2602.04770, and its code: distances
    are scaled by their mean over all B; a kernel is normalised over samples and over targets; the force of each
    temperature has a mean square of 1).
    """
    batch, count, _ = samples.shape
    others, wanted = negatives.shape[1], positives.shape[1]
    own = b.stop_gradient(samples, out="own")
    targets = b.stop_gradient(b.concat(own, negatives, positives, axis=1), out="targets")
    # Less the first of them, so that float32 keeps the distances of features that all lie far from zero.
    first = b.slice(targets, axis=1, start=0, stop=1, out="first")
    about, targets = b.op("sub", own, first, out="about"), b.op("sub", targets, first, out="targets")
    across = b.reshape(weights, shape=(batch, 1, count + others + wanted), out="across")

    distance = _distances(b, about, targets)
    everywhere = tuple(range(3))
    mean = b.mean(distance * across, axes=everywhere, keepdims=False)
    scale = b.div(mean, b.mean(weights, axes=(0, 1), keepdims=False), out="scale")
    unit = b.maximum(scale * (1 / math.sqrt(int(samples.shape[2]))), LEAST_SCALE, out="unit")
    about, scaled = b.div(about, unit, out="about"), b.div(targets, unit, out="scaled")
    far = b.add(b.div(distance, b.maximum(scale, LEAST_SCALE)), _self(b, count, others + wanted) * OWN, out="far")

    forces, squares = [], []
    for temperature in temperatures:
        logits = b.mul(far, -1.0 / temperature, out="logits")
        product = b.softmax(logits, axis=2) * b.softmax(logits, axis=1)
        affinity = b.mul(b.sqrt(b.maximum(product, LEAST_AFFINITY)), across, out="affinity")
        away, towards = b.split(affinity, axis=2, sizes=(count + others, wanted), out="away towards")
        of_away = b.sum(away, axes=(2,), keepdims=True, out="of_away")
        of_towards = b.sum(towards, axes=(2,), keepdims=True, out="of_towards")
        coefficients = b.concat(b.neg(away * of_towards), towards * of_away, axis=2, out="coefficients")
        force = b.matmul(coefficients, scaled) - b.sum(coefficients, axes=(2,), keepdims=True) * about
        square = b.mean(force * force, axes=everywhere, keepdims=False, out="square")
        forces.append(b.div(force, b.sqrt(b.maximum(square, LEAST_FORCE)), out="force"))
        squares.append(square)
    moved = b.stop_gradient(summed(b, "moved", forces), out="moved")
    error = b.op("sub", b.div(b.op("sub", samples, own), b.stop_gradient(unit)), moved, out="error")
    return b.mean(error * error, axes=(1, 2), keepdims=False, out="errors"), summed(b, "force", squares)


def _distances(b: Builder, x: Var, y: Var) -> Var:
    """f32[B, G, Y]: Euclidean distances of x f32[B, G, D] and y f32[B, Y, D]."""
    batch, second = y.shape[:2]
    lengths = b.sum(x * x, axes=(2,), keepdims=True)
    others = b.reshape(b.sum(y * y, axes=(2,), keepdims=False), shape=(batch, 1, second))
    square = lengths + others - 2.0 * b.matmul(x, b.transpose(y, perm=(0, 2, 1)))
    return b.sqrt(b.maximum(square, LEAST_SQUARE), out="distance")


def _self(b: Builder, count: int, rest: int) -> Var:
    """f32[1, G, Y]: 1 where a target is the sample itself."""
    rows = [[float(i == j) for j in range(int(count) + int(rest))] for i in range(int(count))]
    return b.constant([rows], "f32", out="itself")
