"""The search for timesteps, on functions alone: a fine trajectory, dynamic programming over it, then pattern search.

The dynamic programme is that of Watson et al. 2021 (arXiv:2106.03802) with the cost of Chen et al. 2024 (GITS,
arXiv:2405.11326): how far one step of first order along the fine trajectory ends from that trajectory. It costs no
evaluation, but does not depend on the solver, so its result is only where the pattern search starts. That runs the
solver itself and compares samples.

Symbols: B batch, M evaluations of the fine trajectory, N steps searched for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentc.components.processes.prediction import Prediction, conversion
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.table import Network, Table, run

Array = NDArray[np.floating]
Error = Callable[[Sequence[float]], float]  # error of the samples that a solver draws at these timesteps

FRACTIONS = (0.4, 0.15)
"""Fractions of the gap to its neighbour by which the pattern search moves a timestep, in turn."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A fine solution: `t` f64[M] the process's times, `alpha` and `sigma` f64[M + 1], `states` [M + 1, B, …] and
    the `estimates` of the data [M, B, …] at the first M of them. The last state is the sample."""

    t: Array
    alpha: Array
    sigma: Array
    states: Array
    estimates: Array

    @property
    def samples(self) -> Array:
        """[B, …]."""
        last: Array = self.states[-1]
        return last


def trajectory(table: Table, grid: Grid, predicts: Prediction, network: Network, x: Array) -> Trajectory:
    """The states and estimates along a `table` of one evaluation per step on `grid`, from noise x [B, …]."""
    a, b = conversion(predicts, "x0", grid.starts)
    states: list[Array] = []
    estimates: list[Array] = []

    def recorded(state: Array, t: float) -> Array:
        output = network(state, t)
        i = len(states)
        states.append(state)
        estimates.append(float(a[i]) * state + float(b[i]) * output)
        return output

    states.append(run(table, recorded, x))
    return Trajectory(grid.times[:-1], grid.alpha, grid.sigma, np.stack(states), np.stack(estimates))


def step_costs(fine: Trajectory) -> Array:
    """f64[M, M + 1]: the mean square error at point j of one step of first order from point i.

    The step keeps the estimates of data and noise at i. Infinite where j is not after i.
    """
    count = len(fine.t)
    costs = np.full((count, count + 1), np.inf)
    flat = fine.states.reshape(count + 1, -1)
    for i, (x, x0) in enumerate(zip(flat[:-1], fine.estimates.reshape(count, -1), strict=True)):
        noise = (x - fine.alpha[i] * x0) / fine.sigma[i]
        for j in range(i + 1, count + 1):
            costs[i, j] = np.mean((fine.alpha[j] * x0 + fine.sigma[j] * noise - flat[j]) ** 2)
    return costs


def cheapest_path(costs: Array, steps: int) -> list[int]:
    """The points 0 = i_1 < … < i_N of the path from point 0 to point M in `steps` with the least sum of costs.

    ValueError: fewer points than steps.
    """
    count = len(costs)
    if not 1 <= steps <= count:
        raise ValueError(f"{steps} steps over {count} points: between 1 and {count} are possible")
    best = np.concatenate([[0.0], np.full(count, np.inf)])  # cost of reaching each point in the steps so far
    before = np.zeros((steps, count + 1), np.int64)
    for step in range(steps):
        reached = best[:-1, None] + costs
        before[step] = np.argmin(reached, axis=0)
        best = np.min(reached, axis=0)
    path = [count]
    for step in reversed(range(steps)):
        path.append(int(before[step][path[-1]]))
    return path[:0:-1]


def searched(
    starts: Sequence[Sequence[float]],
    error: Error,
    end: float,
    whole: bool,
    sweeps: int = 2,
    stop: Callable[[], bool] = bool,
) -> tuple[list[float], float]:
    """The best of `starts`, refined: timesteps and their error. ValueError if no start is in order."""
    rounded = [[start[0], *(_rounded(t, whole) for t in start[1:])] for start in starts]
    # Rounding may make timesteps that are close together coincide.
    kept = [r if _ordered([*r, end]) else list(start) for r, start in zip(rounded, starts, strict=True)]
    first = min((start for start in kept if _ordered([*start, end])), key=error)
    return refined(first, error, end, whole, sweeps, stop)


def refined(
    timesteps: Sequence[float], error: Error, end: float, whole: bool, sweeps: int = 2, stop: Callable[[], bool] = bool
) -> tuple[list[float], float]:
    """Timesteps with a smaller `error`, and that error, by moving one after the other towards its neighbours.

    The first timestep stays. `end`: where the step from the last one ends. `whole`: round to whole numbers, else to 4
    decimals. Ends when a sweep improves nothing, or when `stop()`.
    """
    best, least = list(timesteps), error(timesteps)
    for _ in range(sweeps):
        before = least
        for fraction in FRACTIONS:
            for i in range(1, len(best)):
                for neighbour in (i - 1, i + 1):
                    if stop():
                        return best, least
                    towards = best[neighbour] if neighbour < len(best) else end
                    tried = [*best[:i], _moved(best[i], towards, fraction, whole), *best[i + 1 :]]
                    if _ordered([*tried, end]) and (found := error(tried)) < least:
                        best, least = tried, found
        if least > 0.999 * before:
            break
    return best, least


def stretched(timesteps: Sequence[float], steps: int, end: float) -> list[float]:
    """Another number of timesteps, spread like `timesteps`: interpolated over their place in the sequence."""
    places = np.linspace(0, 1, len(timesteps) + 1)
    return [float(t) for t in np.interp(np.linspace(0, 1, steps + 1)[:-1], places, [*timesteps, end])]


def _moved(t: float, towards: float, fraction: float, whole: bool) -> float:
    """t moved a fraction of the way to another time; a whole number at least to the next one."""
    shifted = _rounded(t + fraction * (towards - t), whole)
    return t + math.copysign(1.0, towards - t) if whole and shifted == t else shifted


def _rounded(t: float, whole: bool) -> float:
    return float(round(t)) if whole else round(float(t), 4)


def _ordered(times: Sequence[float]) -> bool:
    """True if times fall all the way, or rise all the way."""
    steps = np.diff(times)
    return bool(np.all(steps < 0) or np.all(steps > 0))
