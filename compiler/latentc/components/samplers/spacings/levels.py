"""Spacings of noise levels sigma / alpha (Karras et al. 2022), for every process."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.discrete import COSINE_MAX, cosine_betas
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.processes.sde import log_alpha, vp_rates
from latentc.components.samplers.grid import Grid, level_range, nearest
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing


class OfLevels(Spacing):
    """Falling noise levels between two ends; a last step follows from the lowest."""

    sigma_min: float | None = Field(None, gt=0, description="smallest noise level; null: the process's own")
    sigma_max: float | None = Field(None, gt=0, description="largest noise level; null: the process's own")
    rounded: bool = Field(
        False, description="round each level to the nearest whole timestep (EDM's samplers of iDDPM networks)"
    )

    @abstractmethod
    def chosen(self, low: float, high: float, count: int) -> Array:
        """f64[count] falling from `high` to `low`."""

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        most, least = process.point(process.bounds).level
        low, high = level_range(process)
        ends = process.point([interval.stop, interval.start]).level
        low = max(low, float(ends[0])) if self.sigma_min is None else max(float(least), self.sigma_min)
        high = min(high, float(ends[1])) if self.sigma_max is None else min(float(most), self.sigma_max)
        if not 0 < low < high < np.inf:
            raise ValueError(
                f"noise levels must fall from a finite level to a lower, positive one, not from {high:g} to {low:g}"
            )
        closing = interval.closing
        if closing is None and process.data == process.last:
            closing = interval.stop  # the last step of a path ends at level 0 or nearly so
        if closing is None and process.WHOLE:
            times, closing = process.time_of_level(self.chosen(low, high, steps)), process.last
        else:
            times = process.time_of_level(self.chosen(low, high, steps + (closing is None)))
        times = nearest(process, times) if self.rounded else times
        if closing is not None and (closing - times[-1]) * np.sign(process.last - process.first) < -1e-9:
            raise ValueError(f"noise level {low:g} is beyond the end of the last step: give a larger `sigma_min`")
        return Grid(process, times if closing is None else np.append(times, closing), (low, high), self.rounded)

    @abstractmethod
    def chosen_text(self, script: Script, count: str) -> str:
        """`chosen` as an expression of the arguments sigma_min and sigma_max."""

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        process, script.levels, script.rounded = script.process, ("sigma_min", "sigma_max"), self.rounded
        script.alpha_sigma()
        grid = self.grid(process, steps, interval)
        assert grid.levels is not None
        for name, level in zip(script.levels, grid.levels, strict=True):
            script.argument(name, float(level))
        closing = interval.closing
        if closing is None and process.data == process.last:
            closing = interval.stop
        if closing is None and process.WHOLE:
            closing = process.last
        levels = self.chosen_text(script, "steps" if closing is not None else "steps + 1")
        script.line(f"levels = {levels}")
        times = script.nearest(script.times_of("levels"))
        script.line(f"t = {times if closing is None else f'np.append({times}, {closing!r})'}")


class Karras(OfLevels):
    """Evenly spaced in the `rho`-th root of the level (equation 5)."""

    kind: Literal["karras"]
    rho: float = Field(7.0, gt=0, description="exponent: larger puts more steps near the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "karras"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        return karras_levels(low, high, self.rho, count)

    def chosen_text(self, script: Script, count: str) -> str:
        rho = script.argument("rho", self.rho)
        return f"{script.function(karras_levels)}(sigma_min, sigma_max, {rho}, {count})"


def karras_levels(sigma_min: float, sigma_max: float, rho: float, count: int) -> Array:
    """Evenly spaced in the rho-th root of the noise level (Karras et al. 2022, equation 5)."""
    ramp = np.linspace(0.0, 1.0, count)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (top + ramp * (bottom - top)) ** rho
    if count > 1:
        levels[0], levels[-1] = sigma_max, sigma_min  # exactly, because the powers are rounded
    return levels


class LogSnr(OfLevels):
    """Evenly spaced in log(alpha / sigma): DPM-Solver's logSNR, EDM's `ve` discretisation."""

    kind: Literal["log_snr"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "log_snr"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        return log_snr_levels(low, high, count)

    def chosen_text(self, script: Script, count: str) -> str:
        return f"{script.function(log_snr_levels)}(sigma_min, sigma_max, {count})"


def log_snr_levels(sigma_min: float, sigma_max: float, count: int) -> Array:
    """Evenly spaced in log(alpha / sigma)."""
    levels = np.exp(np.linspace(np.log(sigma_max), np.log(sigma_min), count))
    levels[0], levels[-1] = sigma_max, (sigma_min if count > 1 else sigma_max)
    return levels


class VpLevels(OfLevels):
    """The levels at evenly spaced times of the VP SDE with the same end points: EDM's `vp` discretisation for any
    network.
    """

    kind: Literal["vp_levels"]
    eps: float = Field(1e-3, gt=0, lt=1, description="time of the last level")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vp_levels"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        return vp_levels(low, high, self.eps, count)

    def chosen_text(self, script: Script, count: str) -> str:
        eps = script.argument("eps", self.eps)
        return f"{script.function(vp_levels)}(sigma_min, sigma_max, {eps}, {count})"


def vp_levels(sigma_min: float, sigma_max: float, eps: float, count: int) -> Array:
    """The levels at evenly spaced times of the VP SDE with these ends (EDM's `vp` discretisation)."""
    beta_min, beta_max = vp_rates(sigma_min, sigma_max, eps)
    log_alphas = log_alpha(np.linspace(1.0, eps, count), beta_min, beta_max)
    return np.sqrt(np.expm1(-2.0 * log_alphas))


class IddpmLevels(OfLevels):
    """Levels of improved DDPM's cosine schedule, evenly spaced by index: EDM's `iddpm` discretisation."""

    kind: Literal["iddpm_levels"]
    sigma_min: float | None = Field(0.002, gt=0, description="smallest noise level; null: the process's own")
    sigma_max: float | None = Field(81.0, gt=0, description="largest noise level; null: the process's own")
    steps: int = Field(1000, gt=1, le=100_000, description="number of timesteps of the schedule")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "iddpm_levels"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        return iddpm_levels(low, high, self.steps, count)

    def chosen_text(self, script: Script, count: str) -> str:
        return f"{script.function(iddpm_levels)}(sigma_min, sigma_max, {self.steps}, {count})"


def iddpm_levels(sigma_min: float, sigma_max: float, timesteps: int, count: int) -> Array:
    """f64[count], falling: levels of improved DDPM's cosine schedule, evenly spaced by index (EDM's `iddpm`).

    ValueError: fewer levels than `count` in the range.
    """
    bar = np.cumprod(1.0 - cosine_betas(timesteps, COSINE_MAX), dtype=np.float64)[::-1]
    every = np.sqrt((1.0 - bar) / bar)
    within = every[(every >= sigma_min) & (every <= sigma_max)]
    places = np.round((len(within) - 1) / max(count - 1, 1) * np.arange(count)).astype(np.int64)
    if len(within) < count:
        raise ValueError(f"{count} levels, but there are only {len(within)} between {sigma_max:g} and {sigma_min:g}")
    return np.array(within[places])
