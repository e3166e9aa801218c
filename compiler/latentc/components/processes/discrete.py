"""Discrete variance-preserving schedules: DDPM, improved DDPM, ADM, latent diffusion, EDM's iDDPM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.parts import Applies, Problem, Spec
from latentc.components.processes.formulas import Array, Maths, fractional
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Defaults, Prior, Process

COSINE_MAX = 0.999
"""Largest beta of the cosine schedule of improved DDPM."""

FAINTEST = 1e-6
"""Smallest alpha of a timestep; the cosine schedule of 1000 steps ends at 5e-5."""


class Discrete(Process):
    """T noise levels, timestep 0 (nearly data) to T - 1 (nearly noise), given by betas (Ho et al. 2020, equation 2).

    `linear`: betas evenly spaced, from 1e-4 to 0.02 at 1000 levels and scaled by 1000 / T for other T (improved DDPM,
    ADM, DiT). `scaled_linear`: their square roots evenly spaced, from 0.00085 to 0.012 (latent diffusion). `cosine`:
    alphas_cumprod follows cos((t + 0.008) / 1.008 * pi / 2)^2 with betas of at most `beta_max` (Nichol and
    Dhariwal 2021, equation 17; EDM's iDDPM); it takes no end points.
    """

    kind: Literal["discrete"]
    schedule: Literal["linear", "scaled_linear", "cosine"] = Field(
        "linear", description="noise schedule over the timesteps"
    )
    steps: int = Field(1000, gt=1, le=100_000, description="number of noise levels (T)")
    beta_start: float | None = Field(None, gt=0, lt=1, description="first beta; null: the schedule's own")
    beta_end: float | None = Field(None, gt=0, lt=1, description="last beta; null: the schedule's own")
    beta_max: float = Field(COSINE_MAX, gt=0, lt=1, description="largest beta of `cosine` (LFDM: 0.9999)")
    time_offset: float = Field(0.0, description="offset of the timestep input of the network (U-ViT: 1)")
    interpolation: Literal["log_level", "level", "alpha"] = Field(
        "log_level",
        description="quantity interpolated linearly between timesteps: log(sigma / alpha), sigma / alpha (diffusers' "
        "Euler and Heun), or alpha (DiffWave)",
    )
    prior: Prior = Field(
        "standard",
        description="standard deviation at the start of sampling: 1, or that of the first level (marginal: EDM)",
    )
    DEFAULTS: ClassVar[Defaults] = Defaults(tried=("trailing", "karras"))
    APPLIES: ClassVar[Applies] = {"beta_max": ("schedule", ("cosine",))}
    WHOLE: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "discrete", "schedule": "cosine", "steps": 100}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.schedule == "linear" and self.beta_end is None and self.steps < 21:
            message = f"with {self.steps} steps the betas of the linear schedule exceed 1"
            yield Problem(("steps",), message, "use at least 21 steps, or give `beta_start` and `beta_end`")
            return
        if (alpha := float(np.sqrt(self.alphas_cumprod[-1]))) < FAINTEST:
            message = f"{alpha:.0e} of the signal is left at the last timestep, too little to predict data in float32"
            yield Problem(("beta_end",), message, "reduce `beta_end` or `steps`")

    @property
    def betas(self) -> Array:
        """f64[T]: the variance added at each level, each in (0, 1). ValueError if one is not."""
        return _betas(self.schedule, self.steps, self.beta_start, self.beta_end, self.beta_max)

    @property
    def alphas_cumprod(self) -> Array:
        """f64[T]: alpha squared."""
        return np.cumprod(1.0 - self.betas, dtype=np.float64)

    @property
    def levels(self) -> Array:
        """f64[T]: sigma / alpha of each timestep, rising."""
        return np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)

    def alpha(self, m: Maths, t: Any) -> Any:
        return self._between(t)[0] if fractional(t) else m.row(np.sqrt(self.alphas_cumprod), t, "alpha")

    def sigma(self, m: Maths, t: Any) -> Any:
        return self._between(t)[1] if fractional(t) else m.row(np.sqrt(1.0 - self.alphas_cumprod), t, "sigma")

    def _between(self, t: Array) -> tuple[Array, Array]:
        """(alpha, sigma) at times from -1, the data, to T - 1."""
        return between_timesteps(t, self.alphas_cumprod, self.interpolation)

    def network_time(self, m: Maths, t: Any) -> Any:
        return m.affine(m.real(t, out="time"), 1.0, self.time_offset, out="time")

    def progress(self, t: ArrayLike) -> Array:
        """Progress 1 - t / T, as published guidance schedules count it: timestep T - 1 is one step from pure noise."""
        return np.clip(1.0 - np.asarray(t, np.float64) / self.steps, 0.0, 1.0)

    @property
    def first(self) -> float:
        return self.steps - 1.0

    @property
    def last(self) -> float:
        return 0.0

    @property
    def data(self) -> float:
        return -1.0

    def prior_scale(self, t: float) -> float:
        return 1.0 if self.prior == "standard" else float(self.point(t).sigma)

    def time_of_level(self, level: ArrayLike) -> Array:
        return time_between(np.asarray(level, np.float64), self.alphas_cumprod, self.interpolation)

    def draw(self) -> Draw:
        return Draw("t", "integers", {"high": self.steps})

    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        return draw


def linear_betas(timesteps: int, beta_start: float, beta_end: float) -> Array:
    """Betas evenly spaced (Ho et al. 2020)."""
    return np.linspace(beta_start, beta_end, timesteps, dtype=np.float64)


def scaled_linear_betas(timesteps: int, beta_start: float, beta_end: float) -> Array:
    """Square roots of the betas evenly spaced (latent diffusion)."""
    return np.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=np.float64) ** 2


def cosine_betas(timesteps: int, beta_max: float) -> Array:
    """Betas of alphas_cumprod = cos((t + 0.008) / 1.008 * pi / 2)^2, at most `beta_max` (Nichol and Dhariwal 2021)."""
    bar = np.cos((np.arange(timesteps + 1, dtype=np.float64) / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - bar[1:] / bar[:-1], beta_max)


BETAS: dict[str, Callable[..., Array]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
}


def at_timesteps(t: Array, alphas_cumprod: Array) -> tuple[Array, Array]:
    """(alpha, sigma) at whole timesteps from -1, the data, to T - 1."""
    bar = np.append(alphas_cumprod, 1.0)[t.astype(np.int64)]
    return np.sqrt(bar), np.sqrt(1.0 - bar)


def between_timesteps(t: Array, alphas_cumprod: Array, interpolation: str) -> tuple[Array, Array]:
    """(alpha, sigma) at times from -1, the data, to T - 1: the schedule's own at whole timesteps.

    Between two of them `interpolation` is linear and alpha^2 + sigma^2 is 1.
    """
    timesteps = np.arange(len(alphas_cumprod))
    if interpolation == "alpha":
        alpha = np.interp(t, timesteps, np.sqrt(alphas_cumprod))
        sigma = np.sqrt(1.0 - alpha**2)
    else:
        levels = np.sqrt((1.0 - alphas_cumprod) / alphas_cumprod)
        if interpolation == "level":
            ratio = np.interp(t, timesteps, levels)
        else:
            ratio = np.exp(np.interp(t, timesteps, np.log(levels)))
        alpha = 1.0 / np.sqrt(1.0 + ratio**2)
        sigma = ratio * alpha
    whole, data = t == np.round(t), t == -1.0
    bar = alphas_cumprod[np.round(t).astype(np.int64)]
    alpha = np.where(whole, np.sqrt(bar), alpha)
    sigma = np.where(whole, np.sqrt(1.0 - bar), sigma)
    return np.where(data, 1.0, alpha), np.where(data, 0.0, sigma)


def time_between(level: Array, alphas_cumprod: Array, interpolation: str) -> Array:
    """The times, possibly between two timesteps, at which sigma / alpha is `level`."""
    timesteps = np.arange(len(alphas_cumprod), dtype=np.float64)
    if interpolation == "alpha":
        return np.interp(-1.0 / np.sqrt(1.0 + np.square(level)), -np.sqrt(alphas_cumprod), timesteps)
    levels = np.sqrt((1.0 - alphas_cumprod) / alphas_cumprod)
    if interpolation == "level":
        return np.interp(level, levels, timesteps)
    return np.interp(np.log(level), np.log(levels), timesteps)


def schedule_ends(schedule: str, steps: int, beta_start: float | None, beta_end: float | None) -> tuple[float, float]:
    """The first and the last beta."""
    usual = (1000 / steps * 1e-4, 1000 / steps * 0.02) if schedule == "linear" else (0.00085, 0.012)
    return usual[0] if beta_start is None else beta_start, usual[1] if beta_end is None else beta_end


@cache
def _betas(schedule: str, steps: int, beta_start: float | None, beta_end: float | None, beta_max: float) -> Array:
    if schedule == "cosine":
        return cosine_betas(steps, beta_max)
    start, end = schedule_ends(schedule, steps, beta_start, beta_end)
    betas = BETAS[schedule](steps, start, end)
    if not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"betas must be between 0 and 1: they run from {start:g} to {end:g}")
    return betas
