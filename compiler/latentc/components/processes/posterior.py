"""The distribution of an earlier, less noisy state given a later one and the data, q(x_s | x_t, x0)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Point


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


__all__ = ["Posterior", "posterior", "posterior_terms"]
