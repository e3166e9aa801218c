"""What a network may predict, and THE one place where one prediction becomes another.

A state is ``x = alpha * x0 + sigma * noise`` (x0 the data). Every prediction is a linear functional of (x0,
noise):

    ==============  ==========================================  ================================
    kind            value                                       used by
    ==============  ==========================================  ================================
    noise           noise                                       DDPM, DiT
    x0              x0                                          x0-prediction, EDM's denoised
    velocity        alpha * noise - sigma * x0                  progressive distillation (v)
    flow_velocity   d_alpha * x0 + d_sigma * noise              flow matching: dx/dt, SiT
    score           -noise / sigma                              score matching: grad log p(x)
    ==============  ==========================================  ================================

x and one prediction determine both unknowns, so each conversion is ``out = a * x + b * prediction`` with a
and b that depend on the point of the schedule alone: rows of a sampler's table, never work of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Prediction = Literal["noise", "x0", "velocity", "flow_velocity", "score"]
KINDS: tuple[str, ...] = get_args(Prediction)


@dataclass(frozen=True, eq=False)
class Point:
    """Where on a schedule a state stands: f64 of one common shape (a scalar, or one number a step).

    `d_alpha` and `d_sigma` are derivatives by the flow's time; a discrete schedule has none.
    """

    alpha: Array
    sigma: Array
    d_alpha: Array | None = None
    d_sigma: Array | None = None


def conversion(source: Prediction, target: Prediction, point: Point) -> tuple[Array, Array]:
    """Coefficients (a, b) with ``target = a * x + b * source`` at `point`, each of the point's shape.

    Written out, x = alpha x0 + sigma noise and source = u x0 + w noise are two equations for the two
    unknowns; Cramer's rule gives the target. The same kind gives exactly (0, 1), whatever the point.

    ValueError: the conversion does not exist somewhere (noise tells nothing of x0 where alpha is 0, x0
    nothing of the noise where sigma is 0, a score is infinite there), or a flow velocity is asked of a
    discrete schedule.
    """
    alpha, sigma = np.asarray(point.alpha, np.float64), np.asarray(point.sigma, np.float64)
    if source == target:
        return np.zeros_like(alpha), np.ones_like(alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        if {source, target} == {
            "noise",
            "score",
        }:  # a mere scale, also at alpha = 0 where the rule below is 0 / 0
            return np.zeros_like(alpha), _finite(-sigma if source == "score" else -1.0 / sigma, source, target, point)
        u, w = _functional(source, point)
        u_out, w_out = _functional(target, point)
        determinant = alpha * w - sigma * u
        a = (u_out * w - w_out * u) / determinant
        b = (alpha * w_out - sigma * u_out) / determinant
    return _finite(a, source, target, point), _finite(b, source, target, point)


def _finite(value: Array, source: str, target: str, point: Point) -> Array:
    bad = np.atleast_1d(~np.isfinite(value))
    if bad.any():
        where = int(np.argmax(bad))
        alpha, sigma = np.atleast_1d(point.alpha)[where], np.atleast_1d(point.sigma)[where]
        raise ValueError(f"{target} does not follow from {source} where alpha = {alpha:g} and sigma = {sigma:g}")
    return value


def _functional(kind: Prediction, point: Point) -> tuple[Array, Array]:
    """(u, w) with prediction = u * x0 + w * noise."""
    alpha, sigma = np.asarray(point.alpha, np.float64), np.asarray(point.sigma, np.float64)
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    if kind == "noise":
        return zero, one
    if kind == "x0":
        return one, zero
    if kind == "velocity":
        return -sigma, alpha
    if kind == "score":
        return zero, -1.0 / sigma
    if kind == "flow_velocity":
        if point.d_alpha is None or point.d_sigma is None:
            raise ValueError("a flow velocity needs a path: a discrete schedule has no time derivative")
        return np.asarray(point.d_alpha, np.float64), np.asarray(point.d_sigma, np.float64)
    raise ValueError(f"unknown prediction {kind!r}: one of {', '.join(KINDS)}")
