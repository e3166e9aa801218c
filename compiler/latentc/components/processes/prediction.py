"""Predictions of networks, and the conversions between them.

A state is ``x = alpha * x0 + sigma * noise`` (x0 the data). Every prediction is a linear functional of (x0, noise):

    ==============  ==========================================  ================================
    kind            value                                       used by
    ==============  ==========================================  ================================
    noise           noise                                       DDPM, DiT, EDM's VP and iDDPM
    x0              x0                                          x0-prediction, EDM's denoised
    velocity        alpha * noise - sigma * x0                  progressive distillation (v)
    flow_velocity   d_alpha * x0 + d_sigma * noise              flow matching: dx/dt, SiT
    score           -noise / sigma                              score matching: grad log p(x)
    scaled_score    -noise                                      sigma * score: EDM's VE
    preconditioned  the process's own (EDM's F)                 EDM
    ==============  ==========================================  ================================

x and one prediction determine both unknowns, so each conversion is ``out = a * x + b * prediction`` with a and b that
depend on the time alone: columns of a sampler's table, never work of the engine. To x0 they are EDM's c_skip and c_out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from latentc.components.processes.formulas import Array

Prediction = Literal["noise", "x0", "velocity", "flow_velocity", "score", "scaled_score", "preconditioned"]
KINDS: tuple[str, ...] = get_args(Prediction)


@dataclass(frozen=True, eq=False)
class Point:
    """A process at one or more times; f64 arrays of one shape, or values of an IR function.

    `d_alpha`, `d_sigma`: derivatives by the process's time, None for a discrete schedule. `preconditioned`: (u, w) of
    the process's own prediction u * x0 + w * noise, `denoiser`: (c_skip, c_out) of x0 from it, None if it has none.
    `time` and `scale`: the network's time input and the factor of its input x, in arrays only.
    """

    alpha: Any
    sigma: Any
    d_alpha: Any = None
    d_sigma: Any = None
    preconditioned: tuple[Any, Any] | None = None
    denoiser: tuple[Any, Any] | None = None
    time: Any = None
    scale: Any = None

    @property
    def level(self) -> Array:
        """f64: the noise level sigma / alpha; infinite where alpha is 0."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.sigma / self.alpha)


def functional(kind: Prediction, point: Point) -> tuple[Any, Any]:
    """(u, w) with prediction = u * x0 + w * noise; also in the IR.

    ValueError: the process has no such prediction.
    """
    match kind:
        case "noise":
            return 0.0, 1.0
        case "x0":
            return 1.0, 0.0
        case "velocity":
            return -point.sigma, point.alpha
        case "score":
            return 0.0, -1.0 / point.sigma
        case "scaled_score":
            return 0.0, -1.0
        case "flow_velocity":
            if point.d_alpha is None:
                raise ValueError("a flow velocity needs a path: a discrete schedule has no time derivative")
            return point.d_alpha, point.d_sigma
        case "preconditioned":
            if point.preconditioned is None:
                raise ValueError("this process defines no `preconditioned` prediction; process `edm` does")
            return point.preconditioned
    raise ValueError(f"unknown prediction {kind!r}: choose one of {', '.join(KINDS)}")


def conversion(source: Prediction, target: Prediction, point: Point) -> tuple[Array, Array]:
    """Coefficients (a, b) with ``target = a * x + b * source`` at `point`, each of the point's shape.

    x = alpha x0 + sigma noise and source = u x0 + w noise are two equations for two unknowns; Cramer's rule gives the
    target. A target that is a multiple of the source is exactly (0, multiple), whatever the point.

    ValueError: the conversion does not exist at some time (noise says nothing about x0 where alpha is 0, x0 nothing
    about the noise where sigma is 0, a score is infinite there), or the process has no such prediction.
    """
    alpha, sigma = np.asarray(point.alpha, np.float64), np.asarray(point.sigma, np.float64)
    if source == target:
        return np.zeros_like(alpha), np.ones_like(alpha)
    if source == "preconditioned" and target == "x0" and point.denoiser is not None:
        return point.denoiser
    with np.errstate(divide="ignore", invalid="ignore"):
        u, w = functional(source, point)
        u_out, w_out = functional(target, point)
        if isinstance(u, float) and u == 0.0 and isinstance(u_out, float) and u_out == 0.0:  # both only noise
            a, b = np.zeros_like(alpha), np.broadcast_to(w_out / w, alpha.shape)
        else:
            determinant = alpha * w - sigma * u
            a = (u_out * w - w_out * u) / determinant
            b = (alpha * w_out - sigma * u_out) / determinant
    return _finite(a, source, target, point), _finite(b, source, target, point)


def _finite(value: Array, source: str, target: str, point: Point) -> Array:
    bad = np.atleast_1d(~np.isfinite(value))
    if bad.any():
        where = int(np.argmax(bad))
        alpha, sigma = np.atleast_1d(point.alpha)[where], np.atleast_1d(point.sigma)[where]
        raise ValueError(f"{target} cannot be computed from {source} if alpha = {alpha:g} and sigma = {sigma:g}")
    return np.array(value, np.float64)


@dataclass(frozen=True, eq=False)
class Posterior:
    """A normal distribution with mean coef1 * x0 + coef2 * x_t (Ho et al. 2020, equations 6 and 7).

    `variance` is the posterior's, `added` that of x_t given x_s (beta of a variance-preserving chain).
    """

    coef1: Array
    coef2: Array
    variance: Array
    added: Array


def posterior(later: Point, earlier: Point) -> Posterior:
    """Posterior of the step from `later` (alpha_t, sigma_t) to `earlier` (alpha_s, sigma_s), for any process."""
    return Posterior(*posterior_terms(later.alpha, later.sigma, earlier.alpha, earlier.sigma))


def posterior_terms(alpha_t: Array, sigma_t: Array, alpha_s: Array, sigma_s: Array) -> tuple[Array, ...]:
    """q(x_s | x_t, x_0): coef1, coef2 of its mean coef1 * x_0 + coef2 * x_t, its variance, that of x_t given x_s."""
    kept = alpha_t / alpha_s
    added = sigma_t**2 - (kept * sigma_s) ** 2
    noise_fraction = added / sigma_t**2
    remaining = (sigma_s / sigma_t) ** 2
    return alpha_s * noise_fraction, kept * remaining, np.maximum(added * remaining, 0.0), added
