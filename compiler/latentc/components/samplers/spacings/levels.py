"""Spacings of noise levels sigma / alpha (Karras et al. 2022), for every process."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.processes.sde import log_alpha, vp_rates
from latentc.components.samplers.grid import Grid
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
        (least, most), (low, high) = process.level_bounds(), process.level_range()
        ends = process.level([interval.stop, interval.start])
        low = max(low, float(ends[0])) if self.sigma_min is None else max(least, self.sigma_min)
        high = min(high, float(ends[1])) if self.sigma_max is None else min(most, self.sigma_max)
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
        times = process.nearest(times) if self.rounded else times
        return Grid(process, times if closing is None else np.append(times, closing), (low, high), self.rounded)


class Karras(OfLevels):
    """Evenly spaced in the `rho`-th root of the level (equation 5)."""

    kind: Literal["karras"]
    rho: float = Field(7.0, gt=0, description="exponent: larger puts more steps near the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "karras"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        ramp = np.linspace(0.0, 1.0, count)
        top, bottom = high ** (1 / self.rho), low ** (1 / self.rho)
        levels = (top + ramp * (bottom - top)) ** self.rho
        if count > 1:
            levels[0], levels[-1] = high, low  # exactly, because the powers are rounded
        return levels


class LogSnr(OfLevels):
    """Evenly spaced in log(alpha / sigma): DPM-Solver's logSNR, EDM's `ve` discretisation."""

    kind: Literal["log_snr"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "log_snr"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        levels = np.exp(np.linspace(np.log(high), np.log(low), count))
        levels[0], levels[-1] = high, (low if count > 1 else high)
        return levels


class VpLevels(OfLevels):
    """The levels at evenly spaced times of the VP SDE with the same end points: EDM's `vp` discretisation for any
    network.
    """

    kind: Literal["vp_levels"]
    eps: float = Field(1e-3, gt=0, lt=1, description="time of the last level")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vp_levels"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        beta_min, beta_max = vp_rates(low, high, self.eps)
        log_alphas = log_alpha(np.linspace(1.0, self.eps, count), beta_min, beta_max)
        return np.array(np.sqrt(np.expm1(-2.0 * log_alphas)))


class IddpmLevels(OfLevels):
    """Levels of improved DDPM's cosine schedule, evenly spaced by index: EDM's `iddpm` discretisation."""

    kind: Literal["iddpm_levels"]
    sigma_min: float | None = Field(0.002, gt=0, description="smallest noise level; null: the process's own")
    sigma_max: float | None = Field(81.0, gt=0, description="largest noise level; null: the process's own")
    steps: int = Field(1000, gt=1, le=100_000, description="number of timesteps of the schedule")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "iddpm_levels"}

    def chosen(self, low: float, high: float, count: int) -> Array:
        every = Discrete(kind="discrete", schedule="cosine", steps=self.steps).levels[::-1]
        within = every[(every >= low) & (every <= high)]
        places = np.round((len(within) - 1) / max(count - 1, 1) * np.arange(count)).astype(np.int64)
        if len(within) < count:
            raise ValueError(f"{count} levels requested, but there are only {len(within)} between {high:g} and {low:g}")
        return np.array(within[places])


__all__ = ["IddpmLevels", "Karras", "LogSnr", "OfLevels", "VpLevels"]
