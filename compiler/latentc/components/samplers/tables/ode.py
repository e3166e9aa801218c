"""Tables of the Euler and Heun integrators of the probability-flow ordinary differential equation."""

from __future__ import annotations

import numpy as np

from latentc.components.prediction import Point, Prediction, conversion
from latentc.components.samplers.tables.core import Array, Table
from latentc.components.samplers.tables.diffusion import ddim
from latentc.components.samplers.tables.grids import Grid


def euler(grid: Grid, predicts: Prediction, clip: float | None = None) -> Table:
    """Euler's method.

    On a path: x' = x + dt * velocity (SiT's ODE sampler; t from noise to data). On a discrete schedule:
    Euler's step of x / alpha over sigma / alpha (EDM), which is DDIM's deterministic step; `clip` is for this
    form alone.
    """
    if grid.times is None:
        table = ddim(grid, predicts, clip=clip)
        return Table("euler", table.body, table.columns, clip=clip)
    d_x, d_output = conversion(predicts, "flow_velocity", grid.evaluated)
    step = np.diff(grid.times)
    columns = {"t": grid.t, "d_x": d_x, "d_output": d_output, "x": np.ones(grid.steps), "d": step}
    return Table("euler", "linear", columns)


def heun(grid: Grid, predicts: Prediction) -> Table:
    """Heun's method, the explicit trapezoid: the mean of the slopes at both ends of the step.

    On a path, of the velocity over t (torchdiffeq's heun2, as SiT uses it). On a discrete schedule, of the
    noise over sigma / alpha (EDM, algorithm 1), where a step to sigma = 0 has no second slope: it is Euler's.

    ValueError: a conversion that does not exist at an end (a path that is singular at its start or stop).
    """
    if grid.times is not None:
        return two_stage(grid, predicts)
    if grid.sigma[-1] != 0.0:
        return _heun_noise(grid, predicts, grid.steps)
    last = Grid(grid.t[-1:], grid.alpha[-2:], grid.sigma[-2:])
    tail = euler(last, predicts)
    if grid.steps == 1:
        return Table("heun", tail.body, tail.columns)
    return _heun_noise(grid, predicts, grid.steps - 1, tail)


def two_stage(
    grid: Grid,
    predicts: Prediction,
    diffusion: Array | None = None,
    noise: Array | None = None,
    tail: Table | None = None,
    solver: str = "heun",
) -> Table:
    """Heun's step of velocity + diffusion * score over the grid's times, after adding `noise` to the state.

    `diffusion`: f64[N + 1] at the grid's points, or None for the ordinary differential equation; `noise`:
    f64[N].
    """
    ends = Point(grid.alpha[1:], grid.sigma[1:], *_derivatives(grid, 1))
    d_x, d_output = drift(predicts, grid.evaluated, None if diffusion is None else diffusion[:-1])
    e_x, e_output = drift(predicts, ends, None if diffusion is None else diffusion[1:])
    times = times_of(grid)
    step, one = np.diff(times), np.ones(grid.steps)
    columns = {
        "t": times[:-1],
        "d_x": d_x,
        "d_output": d_output,
        "x": one,
        "d": step,
        "t_2": times[1:],
        "e_x": e_x,
        "e_output": e_output,
        "x_2": one,
        "d_2": step / 2,
        "e_2": step / 2,
    }
    if noise is not None:
        columns["noise"] = noise
    return Table(solver, "two_stage", columns, tail=tail)


def drift(predicts: Prediction, point: Point, diffusion: Array | None) -> tuple[Array, Array]:
    """(a, b) with velocity + diffusion * score = a * x + b * prediction: the drift of the reverse-time
    SDE."""
    a, b = conversion(predicts, "flow_velocity", point)
    if diffusion is None:
        return a, b
    score_a, score_b = conversion(predicts, "score", point)
    return a + diffusion * score_a, b + diffusion * score_b


def _heun_noise(grid: Grid, predicts: Prediction, rows: int, tail: Table | None = None) -> Table:
    alpha, sigma = grid.alpha[: rows + 1], grid.sigma[: rows + 1]
    t_next = grid.t[1 : rows + 1]
    if len(t_next) < rows:
        raise ValueError("Heun's last step to sigma > 0 needs the network's time there: end at sigma 0")
    d_x, d_output = conversion(predicts, "x0", Point(alpha[:-1], sigma[:-1]))
    e_x, e_output = conversion(predicts, "x0", Point(alpha[1:], sigma[1:]))
    # x' / alpha' = x / alpha + (s' - s) * noise, s = sigma / alpha. Where alpha is nearly 0 both terms are huge and
    # cancel; so the estimates are of the data: the first stage is DDIM's step, and the noise at its end differs by
    # alpha' / sigma' * (d - e).
    ratio = sigma[1:] / sigma[:-1]
    first = alpha[1:] - ratio * alpha[:-1]
    half = alpha[1:] ** 2 * np.diff(sigma / alpha) / (2 * sigma[1:])
    columns = {
        "t": grid.t[:rows],
        "d_x": d_x,
        "d_output": d_output,
        "x": ratio,
        "d": first,
        "t_2": t_next,
        "e_x": e_x,
        "e_output": e_output,
        "x_2": ratio,
        "d_2": first + half,
        "e_2": -half,
    }
    return Table("heun", "two_stage", columns, tail=tail)


def times_of(grid: Grid) -> Array:
    """f64[N + 1]: the path's times of a grid; ValueError for that of a discrete schedule."""
    if grid.times is None:
        raise ValueError("this solver integrates over a path's time: a discrete schedule has none")
    return grid.times


def _derivatives(grid: Grid, first: int) -> tuple[Array, Array]:
    times_of(grid)
    assert grid.d_alpha is not None and grid.d_sigma is not None  # a grid of a path has both
    return grid.d_alpha[first:], grid.d_sigma[first:]
