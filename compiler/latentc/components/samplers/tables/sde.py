"""Tables of the stochastic integrators of a path: Euler-Maruyama and Heun on SiT's family of reverse-time
SDEs.

For any diffusion coefficient w(t) >= 0 the SDE ``dx = (velocity + w * score) dt + sqrt(2 w) dW`` has the
path's marginals (SiT, Ma et al. 2024, equation 5); w may be chosen at sampling.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from latentc.components.prediction import Point, Prediction, conversion
from latentc.components.samplers.tables.core import Array, Table
from latentc.components.samplers.tables.grids import Grid
from latentc.components.samplers.tables.ode import drift, times_of, two_stage
from latentc.components.schedules import Path

Form = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]
LastStep = Literal["mean", "tweedie", "euler", "none"]


def diffusion_coefficient(path: Path, t: Array, form: Form, norm: float = 1.0) -> Array:
    """w at times `t`, f64 of their shape (SiT's diffusion forms).

    constant: norm. sbdm: norm * (sigma^2 d_alpha / alpha - sigma d_sigma), the score-based SDE's own
    (infinite at t = 0 on linear and gvp). sigma: norm * sigma. linear: norm * (1 - t). decreasing: (norm
    cos(pi t) + 1)^2 / 4. increasing_decreasing: norm * sin(pi t)^2.
    """
    t = np.asarray(t, np.float64)
    if form == "constant":
        return np.full_like(t, norm)
    if form == "sbdm":
        sigma = path.sigma(t)
        with np.errstate(divide="ignore"):
            return norm * (sigma**2 * path.d_alpha(t) / path.alpha(t) - sigma * path.d_sigma(t))
    if form == "sigma":
        return norm * path.sigma(t)
    if form == "linear":
        return norm * (1.0 - t)
    if form == "decreasing":
        return 0.25 * (norm * np.cos(np.pi * t) + 1.0) ** 2
    if form == "increasing_decreasing":
        return norm * np.sin(np.pi * t) ** 2
    raise ValueError(f"unknown diffusion form {form!r}: one of {', '.join(get_args(Form))}")


def euler_maruyama(
    grid: Grid,
    path: Path,
    predicts: Prediction,
    form: Form = "sigma",
    norm: float = 1.0,
    last: LastStep = "mean",
    last_size: float = 0.04,
    heun: bool = False,
) -> Table:
    """Noisy updates over the `grid` of `path`, then one without noise from its end (see `last_step`).

    Euler-Maruyama, or with `heun` SiT's stochastic Heun: noise first, then the trapezoid of the drift. With
    `last` "none" every update is a noisy one and the result is the state at the grid's end. SiT's num_steps
    counts the last update (its "none" repeats the last state instead).

    ValueError: a form or conversion infinite at one of the times.
    """
    times = times_of(grid)
    start, stop = times[0], times[-1]
    used = grid.steps + (1 if heun else 0)  # an Euler-Maruyama step never looks at its end
    diffusion = diffusion_coefficient(path, times[:used], form, norm)
    if not np.all(np.isfinite(diffusion)):
        raise ValueError(f"diffusion form {form} is infinite at t = {start:g} on a {path.kind} path: start later")
    step = np.diff(times)
    noise = np.sqrt(2.0 * diffusion[: grid.steps] * step)
    tail = None if last == "none" else last_step(path, predicts, stop, form, norm, last, last_size)
    if heun:
        return two_stage(grid, predicts, diffusion, noise, tail, "heun_sde")
    d_x, d_output = drift(predicts, grid.evaluated, diffusion)
    columns = {
        "t": grid.t,
        "d_x": d_x,
        "d_output": d_output,
        "x": np.ones(grid.steps),
        "d": step,
        "noise": noise,
    }
    return Table("euler_maruyama", "linear", columns, tail=tail)


def last_step(
    path: Path, predicts: Prediction, t: float, form: Form, norm: float, kind: LastStep, size: float
) -> Table:
    """The deterministic step after the noisy ones, from time `t` (one row).

    mean: a step `size` of the SDE's drift. euler: of the velocity. tweedie: the expected data, x0 itself.
    """
    times = np.array([t])
    point = Point(path.alpha(times), path.sigma(times), path.d_alpha(times), path.d_sigma(times))
    if kind == "tweedie":
        d_x, d_output = conversion(predicts, "x0", point)
        x, d = np.zeros(1), np.ones(1)
    elif kind in ("mean", "euler"):
        diffusion = diffusion_coefficient(path, times, form, norm) if kind == "mean" else None
        d_x, d_output = drift(predicts, point, diffusion)
        x, d = np.ones(1), np.full(1, size)
    else:
        raise ValueError(f"no step is called {kind!r}: mean, tweedie or euler")
    return Table(f"last_{kind}", "linear", {"t": times, "d_x": d_x, "d_output": d_output, "x": x, "d": d})
