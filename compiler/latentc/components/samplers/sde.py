"""Stochastic integrators of the reverse-time SDE: Euler-Maruyama and Heun over the process's time.

For any diffusion coefficient w(t) >= 0 the SDE ``dx = (velocity + w * score) dt + sqrt(2 w) dW``, with time rising to
the data, has the process's marginals (SiT, Ma et al. 2024, equation 5); w may be chosen at sampling.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.grid import Grid, evaluation
from latentc.components.samplers.ode import drift, noisy_steps, trapezoid
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, Table

Form = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]
LastStep = Literal["mean", "tweedie", "euler", "none"]


class Stochastic(ArraySampler):
    """A sampler of SiT's reverse-time SDE (Ma et al. 2024, equation 5): noisy steps, then one without."""

    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {"timesteps": ("last_size", "spacing")}
    HEUN: ClassVar[bool] = False

    steps: int = Field(
        250, gt=1, le=100_000, description="number of updates, including the last, noiseless one: SiT's num_steps"
    )
    diffusion: Form = Field("sigma", description="noise level over time: SiT's diffusion form")
    norm: float = Field(1.0, gt=0, description="scale of the diffusion")
    last: LastStep = Field(
        "mean",
        description="noiseless last update: along the drift (mean), along the velocity (euler), to the expected data "
        "(tweedie), or none",
    )
    last_size: float = Field(
        0.04,
        gt=0,
        lt=1,
        description="time bridged by the last update; with timesteps, from the last of them to the data",
    )
    eps: float = Field(1e-3, ge=0, lt=0.5, description="distance kept from the ends if the drift is singular there")

    def table(self, target: Parameterization) -> Table:
        interval, process, size = self.interval(target), target.process, self.last_size
        noisy = self.steps if self.last == "none" else self.steps - 1
        if noisy < 1:
            raise ValueError("a stochastic sampler needs at least one step before its last one")
        if self.timesteps is None:
            grid = self.spacing_of(process).grid(process, noisy, interval)
        elif self.last == "none":
            grid = Grid(process, np.array([*self.timesteps, self.end(target)], np.float64))
        else:
            grid, size = Grid(process, np.array(self.timesteps)), abs(self.end(target) - self.timesteps[-1])
        return stochastic(grid, target.predicts, self.diffusion, self.norm, self.last, size, heun=self.HEUN)

    def end(self, target: Parameterization) -> float:
        interval = self.interval(target)
        return interval.stop if self.last == "none" else time_of_end(target.process)

    def interval(self, target: Parameterization) -> Interval:
        """The times of the noisy steps (SiT's `check_interval`).

        Differs from SiT if that is not finite: `sbdm` starts at eps also with a velocity, and Heun's steps end before
        the data if no last update follows.
        """
        process = target.process
        if process.point(process.first).d_alpha is None:
            raise ValueError(f"`{self.kind}` needs a process in continuous time, and `{process.kind}` has time steps")
        end = time_of_end(process)
        way = np.sign(end - process.first)
        singular = not np.all(np.isfinite(process.point(end).d_sigma))
        velocity = target.predicts == "flow_velocity" and not singular
        noise_end = process.point(process.first).alpha == 0.0
        early = noise_end and not (velocity and self.diffusion != "sbdm")
        start = process.first + (way * self.eps if early else 0.0)
        if self.last != "none":
            return Interval(start, end - way * self.last_size)
        return Interval(start, end - (0.0 if velocity and not self.HEUN else way * self.eps))


def time_of_end(process: Process) -> float:
    """The time of the data; of a process that never gets there (`ve`), that of its least noise."""
    return process.data if np.isfinite(process.data) else process.last


def diffusion_coefficient(process: Process, t: Array, form: Form, norm: float = 1.0) -> Array:
    """w at times `t`, f64 of their shape (SiT's diffusion forms; p is the progress from noise, 0, to data, 1).

    constant: norm. sbdm: norm * (sigma^2 d_alpha / alpha - sigma d_sigma), the score-based SDE's own
    (infinite at the noise on linear and gvp). sigma: norm * sigma. linear: norm * (1 - p). decreasing: (norm
    cos(pi p) + 1)^2 / 4. increasing_decreasing: norm * sin(pi p)^2.
    """
    t = np.asarray(t, np.float64)
    length = time_of_end(process) - process.first
    p, point, way = (t - process.first) / length, process.point(t), np.sign(length)
    match form:
        case "constant":
            return np.full_like(t, norm)
        case "sbdm":
            with np.errstate(divide="ignore"):
                growth = point.sigma**2 * point.d_alpha / point.alpha - point.sigma * point.d_sigma
            return np.asarray(way * norm * growth)
        case "sigma":
            return np.asarray(norm * point.sigma)
        case "linear":
            return norm * (1.0 - p)
        case "decreasing":
            return np.asarray(0.25 * (norm * np.cos(np.pi * p) + 1.0) ** 2)
        case "increasing_decreasing":
            return np.asarray(norm * np.sin(np.pi * p) ** 2)
    raise ValueError(f"unknown diffusion form {form!r}: choose one of {', '.join(get_args(Form))}")


def stochastic(
    grid: Grid,
    predicts: Prediction,
    form: Form = "sigma",
    norm: float = 1.0,
    last: LastStep = "mean",
    last_size: float = 0.04,
    heun: bool = False,
) -> Table:
    """Noisy updates over the `grid`, then one without noise from its end (see `last_step`).

    Euler-Maruyama, or with `heun` SiT's stochastic Heun: noise first, then the trapezoid of the drift. With
    `last` "none" every update is a noisy one and the result is the state at the grid's end. SiT's num_steps
    counts the last update (its "none" repeats the last state instead).

    ValueError: a form or conversion infinite at one of the times.
    """
    process, times = grid.process, grid.times
    used = grid.steps + (1 if heun else 0)  # an Euler-Maruyama step never uses its end point
    w = diffusion_coefficient(process, times[:used], form, norm)
    if not np.all(np.isfinite(w)):
        raise ValueError(f"diffusion form {form!r} is infinite at t = {times[0]:g} of {process.kind}: start later")
    step = np.diff(times)
    way = np.sign(step)
    noise = np.sqrt(2.0 * w[: grid.steps] * np.abs(step))
    tail = None if last == "none" else last_step(process, predicts, times[-1], form, norm, last, last_size)
    if heun:
        signed = (way * w[:-1], way * w[1:])
        return trapezoid(noisy_steps(grid, noise), predicts, signed, tail, "heun_sde")
    columns = drift(process, times[:-1], predicts, way * w)
    columns |= {"x": np.ones(grid.steps), "d": step, "noise": noise}
    return Table("euler_maruyama", LINEAR, columns, prior=grid.prior, tail=tail)


def last_step(
    process: Process, predicts: Prediction, t: float, form: Form, norm: float, kind: LastStep, size: float
) -> Table:
    """The deterministic step after the noisy ones, from time `t` (one row).

    mean: a step `size` of the SDE's drift. euler: of the velocity. tweedie: the expected data, x0 itself.
    """
    times, way = np.array([t]), float(np.sign(time_of_end(process) - process.first))
    if kind == "tweedie":
        columns, x, d = evaluation(process, times, predicts, "x0"), 0.0, 1.0
    else:
        w = way * diffusion_coefficient(process, times, form, norm) if kind == "mean" else None
        columns, x, d = drift(process, times, predicts, w), 1.0, way * size
    return Table(f"last_{kind}", LINEAR, {**columns, "x": np.array([x]), "d": np.array([d])})


__all__ = ["Form", "LastStep", "Stochastic", "diffusion_coefficient", "last_step", "stochastic"]
