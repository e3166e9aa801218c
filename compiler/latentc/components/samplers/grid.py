"""The times of a process at which a sampler evaluates the network, and the coefficients of these evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Point, Prediction, conversion, functional
from latentc.components.processes.process import Process
from latentc.components.samplers.table import DATA, DATA_PART

LEAST_ALPHA = 1e-3
"""Where alpha is less, the data is taken from its part of the state as if it were this."""

INSET = 1e-3
"""Share of the way between a process's ends by which a grid of levels stays away from an infinite level, or from 0."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The states of a run: `times` f64[N + 1] of the process from noise to data. The network is evaluated at the first
    N; the last is where the last step ends.

    `levels`: least and greatest noise level that were asked for, if any. `rounded`: to whole timesteps.
    """

    process: Process
    times: Array
    levels: tuple[float, float] | None = None
    rounded: bool = False

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    @cached_property
    def point(self) -> Point:
        """The process at the N + 1 times."""
        return self.process.point(self.times)

    @property
    def starts(self) -> Point:
        """The process at the start of each step."""
        return self.process.point(self.times[:-1])

    @property
    def ends(self) -> Point:
        """The process at the end of each step."""
        return self.process.point(self.times[1:])

    @property
    def alpha(self) -> Array:
        return self.point.alpha

    @property
    def sigma(self) -> Array:
        return self.point.sigma

    @property
    def ratio(self) -> Array:
        """f64[N + 1]: the noise level sigma / alpha; infinite where alpha is 0."""
        return self.point.level

    @property
    def log_snr(self) -> Array:
        """f64[N + 1]: lambda = log(alpha / sigma), half the log signal-to-noise ratio; infinite where sigma is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)

    @property
    def ends_at_data(self) -> bool:
        """True if the last step ends at the data, where the network is not evaluated."""
        return bool(self.times[-1] == self.process.data != self.process.last)

    @property
    def prior(self) -> float:
        """Standard deviation of the first state."""
        return self.process.prior_scale(float(self.times[0]))

    def part(self, first: int, last: int) -> Grid:
        """Steps first to last - 1."""
        return Grid(self.process, self.times[first : last + 1], self.levels, self.rounded)

    def evaluation(self, predicts: Prediction, target: Prediction, second: bool = False) -> dict[str, Array]:
        """Columns of an evaluation at the start of each step (or, `second`, at its end): see `Table`."""
        return evaluation(self.process, self.times[1:] if second else self.times[:-1], predicts, target, second)


def evaluation(
    process: Process, times: Array, predicts: Prediction, target: Prediction, second: bool = False
) -> dict[str, Array]:
    """Columns that turn the network's output at `times` into an estimate of `target`.

    ValueError: the conversion does not exist at one of the times.
    """
    point, progress = process.point(times), process.progress(times)
    a, b = conversion(predicts, target, point)
    if second:
        columns = {"t_2": point.time, "e_x": a, "e_output": b, "progress_2": progress}
    else:
        columns = {"t": point.time, "d_x": a, "d_output": b, "progress": progress}
    scale = point.scale
    if np.any(scale != 1.0):
        columns["c_in_2" if second else "c_in"] = scale
    columns["e_guide" if second else "d_guide"] = scale * of_score(point, target)
    z_x, z_output = data_part(point, predicts)
    columns |= dict(zip(DATA_PART[second], (z_x, scale * z_output), strict=True))
    alpha = np.maximum(point.alpha, LEAST_ALPHA)
    columns |= dict(zip(DATA[second], (scale * alpha, scale * point.sigma**2 / alpha), strict=True))
    return columns


def level_range(process: Process) -> tuple[float, float]:
    """Least and greatest noise level of a grid of levels: those of the process, or near its ends if 0 or infinite."""
    ends = np.array([process.last, process.first])
    inside = ends + INSET * (ends[::-1] - ends)
    levels = process.point(ends).level
    low, high = np.where((levels > 0.0) & np.isfinite(levels), levels, process.point(inside).level)
    return float(low), float(high)


def timesteps_of(process: Process) -> int:
    """The number of timesteps of a process whose times are whole."""
    return round(abs(process.first - process.last)) + 1


def nearest_timesteps(t: Array, level_at: Callable[[Array], Array], timesteps: int) -> Array:
    """The timesteps whose noise levels are nearest to those at t."""
    every = level_at(np.arange(float(timesteps)))
    return np.argmin(np.abs(level_at(t)[:, None] - every), axis=1).astype(np.float64)


def nearest(process: Process, t: Array) -> Array:
    """The times at which a network that knows whole timesteps only can be evaluated."""
    if not process.WHOLE:
        return t
    return nearest_timesteps(t, lambda times: process.point(times).level, timesteps_of(process))


def data_part(point: Point, predicts: Prediction) -> tuple[Array, Array]:
    """(a, b) with alpha * x0 = a * x + b * output: the part of the state x that is data, by a prediction."""
    alpha, sigma = np.asarray(point.alpha, np.float64), np.asarray(point.sigma, np.float64)
    u, w = (np.broadcast_to(np.asarray(v, np.float64), alpha.shape) for v in functional(predicts, point))
    determinant = alpha * w - sigma * u
    with np.errstate(divide="ignore", invalid="ignore"):
        # If alpha is 0, a prediction of the noise does not determine x0, but alpha * x0 is 0 all the same.
        share = np.where(determinant == 0.0, 1.0 / w, alpha / determinant)
        share_of_noise = np.where(sigma == 0.0, 0.0, sigma * share)
        return np.nan_to_num(share * w, nan=1.0), np.nan_to_num(-share_of_noise)


def of_score(point: Point, target: Prediction) -> Array:
    """f64: how much `target` changes with the score at a fixed state; 0 where alpha is 0, at pure noise."""
    u, w = functional(target, point)
    noise = point.alpha == 0.0
    of_data = u * point.sigma**2 / np.where(noise, 1.0, point.alpha)
    return np.where(noise, 0.0, of_data - w * point.sigma)
