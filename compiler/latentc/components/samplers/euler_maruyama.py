"""Stochastic integrators of the reverse-time SDE: Euler-Maruyama and Heun over the process's time.

For any diffusion coefficient w(t) >= 0 the SDE ``dx = (velocity + w * score) dt + sqrt(2 w) dW``, with time rising to
the data, has the process's marginals (SiT, Ma et al. 2024, equation 5); w may be chosen at sampling.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.grid import Grid, evaluation
from latentc.components.samplers.ode import drift, noisy_steps, trapezoid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.levels import OfLevels
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

    def write(self, script: Script) -> None:
        target, process = script.target, script.process
        size: str | None = None
        if self.last == "none":
            self.write_grid(script)
        elif self.timesteps is None:
            script.argument("steps", self.steps)
            script.line("steps -= 1  # besides the last step, which has no noise")
            spacing, interval = self.spacing_of(process), self.interval(target)
            if isinstance(spacing, OfLevels):
                size = repr(self.last_size)  # the lowest level depends on it
            else:
                size = script.argument("last_size", self.last_size)
                ends = f"{time_of_end(process)!r} {'-' if time_of_end(process) > process.first else '+'} {size}"
                interval = replace(interval, stop_text=ends)
            spacing.write(script, self.steps - 1, interval)
        else:
            script.alpha_sigma()
            script.line(f"t = np.array({[float(t) for t in self.timesteps]})")
            size = f"abs({self.end(target)!r} - t[-1])"
        script.start()
        end = time_of_end(process)
        way = float(np.sign(end - process.first))
        norm, needs = script.argument("norm", self.norm), DIFFUSIONS[self.diffusion]
        static: dict[str, Any] = {name: None for name in ("p", "sigma", "growth") if name not in needs}
        form = script.function(diffusion, form=self.diffusion, **static)
        if "p" in needs:
            script.line(f"p = (t - {process.first!r}) / ({end!r} - {process.first!r})")
        if "growth" in needs:
            script.line(f"d_alpha, d_sigma = {script.sources.method(process, 'derivatives')}(t)")
            script.line("growth = sigma**2 * d_alpha / alpha - sigma * d_sigma")
        signed = f"{norm}" if way > 0 or "growth" not in needs else f"-{norm}"
        script.line(f"w = {form}({', '.join((signed, *needs))})")
        drift_at = script.evaluation("flow_velocity", diffused=True)
        sign = "" if way > 0 else "-"
        script.line("step = np.diff(t)")
        script.line("noise = np.sqrt(2.0 * w[:-1] * np.abs(step))")
        columns = [f"{drift_at}(t[:-1], {sign}w[:-1])"]
        if self.HEUN:
            columns.append(script.second(f"{drift_at}(t[1:], {sign}w[1:])"))
            columns.append('{"d": step, "d_2": step / 2, "e_2": step / 2, "noise": noise}')
        else:
            columns.append('{"d": step, "noise": noise}')
        script.loop(*columns)
        d = f'{{"d": np.array([{sign}{size}])}}'
        if self.last == "mean":
            script.loop(f"{drift_at}(t[-1:], {sign}w[-1:])", d)
        elif self.last == "euler":
            script.loop(f"{script.evaluation('flow_velocity', name='velocity')}(t[-1:])", d)
        elif self.last == "tweedie":
            script.loop(f"{script.evaluation('x0', name='denoised')}(t[-1:])")

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
    return process.data if process.data is not None and np.isfinite(process.data) else process.last


def diffusion_coefficient(process: Process, t: Array, form: Form, norm: float = 1.0) -> Array:
    """w at times `t`, f64 of their shape (SiT's diffusion forms; p is the progress from noise, 0, to data, 1).

    constant: norm. sbdm: norm * (sigma^2 d_alpha / alpha - sigma d_sigma), the score-based SDE's own
    (infinite at the noise on linear and gvp). sigma: norm * sigma. linear: norm * (1 - p). decreasing: (norm
    cos(pi p) + 1)^2 / 4. increasing_decreasing: norm * sin(pi p)^2.
    """
    if form not in DIFFUSIONS:
        raise ValueError(f"unknown diffusion form {form!r}: choose one of {', '.join(DIFFUSIONS)}")
    t = np.asarray(t, np.float64)
    length = time_of_end(process) - process.first
    p, point, way = (t - process.first) / length, process.point(t), np.sign(length)
    growth = None
    if form == "sbdm":
        norm = way * norm
        with np.errstate(divide="ignore"):
            growth = point.sigma**2 * point.d_alpha / point.alpha - point.sigma * point.d_sigma
    return diffusion(norm, form, p, point.sigma, growth)


def diffusion(norm: float, form: str, p: Array, sigma: Array, growth: Array | None) -> Array:
    """The diffusion coefficient w of SiT at progress p, from noise (0) to data (1)."""
    if form == "constant":
        return np.full_like(p, norm)
    if form == "sbdm":
        assert growth is not None
        return norm * growth
    if form == "sigma":
        return norm * sigma
    if form == "linear":
        return norm * (1.0 - p)
    if form == "decreasing":
        return 0.25 * (norm * np.cos(np.pi * p) + 1.0) ** 2
    return norm * np.sin(np.pi * p) ** 2


DIFFUSIONS: dict[str, tuple[str, ...]] = {
    "constant": ("p",),
    "sbdm": ("growth",),
    "sigma": ("sigma",),
    "linear": ("p",),
    "decreasing": ("p",),
    "increasing_decreasing": ("p",),
}
"""Arguments of each form of `diffusion`."""


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
    way = float(np.sign(time_of_end(process) - process.first))  # a step between equal times has no sign
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


class EulerMaruyama(Stochastic):
    """The Euler-Maruyama method: one evaluation and one noise draw per step."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "euler_maruyama", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["euler_maruyama"]


class HeunSde(Stochastic):
    """SiT's stochastic Heun: first the noise, then the trapezoid rule for the drift; two evaluations per step."""

    HEUN: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "heun_sde", "steps": 4, "last": "tweedie"}

    kind: Literal["heun_sde"]
