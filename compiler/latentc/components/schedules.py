"""Noise schedules and flow paths: the numbers of a forward process, in float64 on the host.

Both kinds describe one family of states, ``x = alpha * x0 + sigma * noise`` (x0 the data). A discrete
schedule (diffusion) numbers its T levels 0 (nearly data) to T - 1 (nearly noise); a path (flow matching) has
a time t in [0, 1] that runs from noise at t = 0 to data at t = 1, as SiT has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
ScheduleKind = Literal["linear", "scaled_linear", "cosine"]
PathKind = Literal["linear", "gvp", "vp"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete variance-preserving schedule.

    `betas`: f64[T], the variance added at each level, each in (0, 1) (Ho et al. 2020, equation 2).
    """

    betas: Array

    def __post_init__(self) -> None:
        if self.betas.ndim != 1 or not np.all((self.betas > 0) & (self.betas < 1)):
            raise ValueError("betas must be a vector of numbers between 0 and 1")

    @property
    def steps(self) -> int:
        """T, the number of levels."""
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> Array:
        """f64[T]: the product of (1 - beta) up to each level, alpha squared."""
        return np.cumprod(1.0 - self.betas, dtype=np.float64)

    @property
    def alpha(self) -> Array:
        """f64[T]: the coefficient of the data."""
        return np.sqrt(self.alphas_cumprod)

    @property
    def sigma(self) -> Array:
        """f64[T]: the coefficient of the noise."""
        return np.sqrt(1.0 - self.alphas_cumprod)

    def levels(self, t: ArrayLike) -> tuple[Array, Array]:
        """(alpha, sigma) at times `t` of any shape in 0 … T - 1: the schedule's own at whole timesteps.

        Between two of them log(sigma / alpha) is interpolated and alpha^2 + sigma^2 is 1.
        """
        t = np.asarray(t, np.float64)
        ratio = np.exp(np.interp(t, np.arange(self.steps), np.log(self.sigma / self.alpha)))
        whole = t == np.round(t)
        index = np.round(t).astype(np.int64)
        alpha = np.where(whole, self.alpha[index], 1.0 / np.sqrt(1.0 + ratio**2))
        return alpha, np.where(whole, self.sigma[index], ratio * alpha)


def schedule(
    kind: ScheduleKind,
    steps: int = 1000,
    beta_start: float | None = None,
    beta_end: float | None = None,
    max_beta: float = 0.999,
) -> Schedule:
    """The named schedule with `steps` levels.

    `linear`: betas evenly spaced, from 1e-4 to 0.02 at 1000 levels and scaled by 1000 / steps at other counts
    (improved DDPM, ADM, DiT), unless the ends are given. `scaled_linear`: square roots evenly spaced, from
    0.00085 to 0.012 (latent diffusion). `cosine`: alphas_cumprod follows cos((t + 0.008) / 1.008 * pi / 2)^2,
    betas at most `max_beta` (Nichol and Dhariwal 2021, equation 17); it has no ends to give.

    ValueError: an unknown kind, no levels, or betas outside (0, 1) (`linear` below 21 levels, for one).
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least one level, not {steps}")
    if kind == "linear":
        scale = 1000.0 / steps
        start = scale * 1e-4 if beta_start is None else beta_start
        end = scale * 0.02 if beta_end is None else beta_end
        return Schedule(np.linspace(start, end, steps, dtype=np.float64))
    if kind == "scaled_linear":
        start = 0.00085 if beta_start is None else beta_start
        end = 0.012 if beta_end is None else beta_end
        return Schedule(np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2)
    if kind == "cosine":
        bar = np.cos((np.arange(steps + 1, dtype=np.float64) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return Schedule(np.minimum(1.0 - bar[1:] / bar[:-1], max_beta))
    raise ValueError(f"unknown schedule {kind!r}: one of {', '.join(get_args(ScheduleKind))}")


@dataclass(frozen=True)
class Path:
    """A flow's path: x_t = alpha(t) * x0 + sigma(t) * noise, with the derivatives by t.

    Every function maps times of any shape in [0, 1] to float64 of that shape. The derivative of vp's sigma is
    minus infinity at the data end (t = 1): an integrator must stop before it.
    """

    kind: PathKind
    alpha: Callable[[ArrayLike], Array]
    sigma: Callable[[ArrayLike], Array]
    d_alpha: Callable[[ArrayLike], Array]
    d_sigma: Callable[[ArrayLike], Array]


def path(kind: PathKind, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """The named path (SiT, Ma et al. 2024, section 2.3; t = 0 is noise).

    `linear`: alpha = t, sigma = 1 - t. `gvp`: alpha = sin(pi t / 2), sigma = cos(pi t / 2). `vp`: the
    variance-preserving SDE with beta from `beta_min` at the data to `beta_max` at the noise; only it reads
    them.
    """
    if kind == "linear":
        return Path(
            kind,
            alpha=lambda t: np.asarray(t, np.float64) * 1.0,
            sigma=lambda t: 1.0 - np.asarray(t, np.float64),
            d_alpha=lambda t: np.ones_like(np.asarray(t, np.float64)),
            d_sigma=lambda t: -np.ones_like(np.asarray(t, np.float64)),
        )
    if kind == "gvp":
        half = np.pi / 2
        return Path(
            kind,
            alpha=lambda t: np.sin(half * np.asarray(t, np.float64)),
            sigma=lambda t: np.cos(half * np.asarray(t, np.float64)),
            d_alpha=lambda t: half * np.cos(half * np.asarray(t, np.float64)),
            d_sigma=lambda t: -half * np.sin(half * np.asarray(t, np.float64)),
        )
    if kind == "vp":
        return _vp(beta_min, beta_max)
    raise ValueError(f"unknown path {kind!r}: one of {', '.join(get_args(PathKind))}")


def _vp(beta_min: float, beta_max: float) -> Path:
    def log_alpha(t: ArrayLike) -> Array:
        left = 1.0 - np.asarray(t, np.float64)
        return -0.25 * left**2 * (beta_max - beta_min) - 0.5 * left * beta_min

    def d_log_alpha(t: ArrayLike) -> Array:
        left = 1.0 - np.asarray(t, np.float64)
        return 0.5 * left * (beta_max - beta_min) + 0.5 * beta_min

    def alpha(t: ArrayLike) -> Array:
        return np.exp(log_alpha(t))

    def sigma(t: ArrayLike) -> Array:
        return np.sqrt(-np.expm1(2.0 * log_alpha(t)))

    def d_sigma(t: ArrayLike) -> Array:
        with np.errstate(divide="ignore"):  # minus infinity at the data end, where sigma is 0
            return -np.exp(2.0 * log_alpha(t)) * d_log_alpha(t) / sigma(t)

    return Path("vp", alpha, sigma, lambda t: alpha(t) * d_log_alpha(t), d_sigma)
