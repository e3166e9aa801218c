"""Euler's and Heun's methods on the probability-flow equation, over any process and in several variables.

With x = s (x0 + level * noise) the equation is ``dx/dv = A x + B x0``, where v is the variable of integration and s the
scale of the state; EDM (Karras et al. 2022, table 1) calls these the schedule and the scaling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction, conversion
from latentc.components.processes.process import Parameterization, Process
from latentc.components.processes.sde import vp_rates
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.ddim import ddim
from latentc.components.samplers.grid import Grid, evaluation, nearest
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import LINEAR, Body, Step, Table
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var

Over = Literal["time", "level", "variance", "vp_time"]
Scaling = Literal["none", "vp"]


class Churn(Closed):
    """Noise that is added before a step (EDM, Karras et al. 2022, algorithm 2)."""

    amount: float = Field(40.0, ge=0, description="S_churn: total amount over all steps")
    min: float = Field(0.0, ge=0, description="S_min: smallest noise level at which noise is added")
    max: float | None = Field(None, gt=0, description="S_max: largest such level; null: no bound")
    noise: float = Field(1.0, gt=0, description="S_noise: standard deviation of the noise")


class Integrator(ArraySampler):
    """A sampler that integrates the probability-flow equation."""

    steps: int = Field(
        50, gt=0, le=100_000, description="steps of the integrator (SiT's num_steps counts grid points: one more)"
    )
    over: Over | None = Field(
        None,
        description="variable of integration: the process's time, the noise level sigma / alpha (EDM's linear "
        "schedule), its square (EDM's ve) or the time of a VP SDE (EDM's vp); null: time on a flow, else the level",
    )
    scaling: Scaling = Field("none", description="scale of the integrated state (EDM's scaling); unused over time")
    churn: Churn | None = Field(None, description="noise added before steps (EDM); null: none")
    eps: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="distance kept from the ends of the path; null: 0.001 from ends where the velocity is singular, "
        "if any",
    )

    def variable(self, target: Parameterization) -> Variable:
        """The form of the equation that is integrated."""
        return Variable(self.over or target.process.DEFAULTS.over, self.scaling)

    def write_starts(self, script: Script) -> bool:
        """Writes the times at which steps start and end; true if noise is added before (`churn`)."""
        script.fractional = self.churn is not None
        self.write_grid(script)
        script.start()
        if self.churn is None or not self.churn.amount:
            script.line("start, end = t[:-1], t[1:]")
            return False
        churn = self.churn
        most = math.inf if churn.max is None else churn.max
        given = (("S_churn", churn.amount), ("S_min", churn.min), ("S_max", most), ("S_noise", churn.noise))
        for name, value in given:
            script.argument(name, value)
        script.line("level_of_start = sigma[:-1] / alpha[:-1]")
        script.line("gamma = min(S_churn / len(level_of_start), np.sqrt(2.0) - 1.0)")
        bounds = "(S_min <= level_of_start) & (level_of_start <= S_max)"
        script.line(f"raised = np.isfinite(level_of_start) & {bounds}")
        script.line("t_hat = " + script.times_of("np.where(raised, level_of_start * (1.0 + gamma), 1.0)"))
        script.line(f"start, end = np.where(raised, {script.nearest('t_hat')}, t[:-1]), t[1:]")
        script.line(f"alpha_hat, sigma_hat = {script.alpha_sigma()}(start)")
        script.line("added = np.maximum((sigma_hat / alpha_hat) ** 2 - level_of_start**2, 0.0)")
        script.line("noise = alpha_hat * np.sqrt(np.where(raised, added, 0.0)) * S_noise")
        if not script.constant_alpha:
            script.line("y_x = np.where(raised, alpha_hat / alpha[:-1], 1.0)")
        return True

    def equation_text(self, script: Script, times: str) -> str:
        """The terms of the equation at `times` as an expression."""
        variable, static = self.variable(script.target), {}
        ends = ""
        if variable.over == "vp_time":
            low, high = script.levels or ("sigma[-2] / alpha[-2]", "sigma[0] / alpha[0]")
            ends = f", ({low}, {high})"
        else:
            static = {"ends": None}
        if variable == LEVEL:
            found = script.function(level_equation)
        else:
            found = script.function(equation, over=variable.over, scaling=variable.scaling, **static)
        return f"{found}({script.level()}({times}), {script.alpha_sigma()}({times})[0]{ends})"

    def interval(self, target: Parameterization) -> Interval:
        """SiT's `check_interval` for a path: `eps` from its ends, or from those where its velocity is singular."""
        if target.process.data != target.process.last:
            return super().interval(target)
        return path_interval(target, self.eps, (self.over or target.process.DEFAULTS.over) == "time")


def path_interval(target: Parameterization, eps: float | None, over_time: bool = True) -> Interval:
    """A path without `eps` at its ends; None: without 0.001 at those where its velocity is singular."""
    process, least = target.process, 1e-3 if eps is None else eps
    way = float(np.sign(process.last - process.first))
    if not np.all(np.isfinite(process.point(process.last).d_sigma)):
        return Interval(process.first, process.last - way * least)
    if eps is None and over_time and target.predicts == "flow_velocity":
        return Interval(process.first, process.last)
    return Interval(process.first + way * least, process.last - way * least)


@dataclass(frozen=True)
class Variable:
    """A form of the probability-flow equation."""

    over: Over = "level"
    scaling: Scaling = "none"


LEVEL, TIME = Variable("level"), Variable("time")


@dataclass(frozen=True, eq=False)
class _Equation:
    """dx/dv = a x + b x0 at times of a process, for the process's state times `scale`."""

    v: Array
    scale: Array
    a: Array
    b: Array


def _equation(grid: Grid, times: Array, variable: Variable) -> _Equation:
    """The equation at `times`. ValueError: an infinite noise level."""
    point = grid.process.point(times)
    level = point.level
    if not np.all(np.isfinite(level)):
        raise ValueError("a solver in sigma / alpha needs 0 < alpha: start later")
    ends = grid.levels or (float(grid.ratio[-2]), float(grid.ratio[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _Equation(*equation(level, point.alpha, variable.over, variable.scaling, ends))


def equation(
    level: Array, alpha: Array, over: str, scaling: str, ends: tuple[float, float] | None
) -> tuple[Array, Array, Array, Array]:
    """(v, scale, a, b) of the probability-flow equation dx/dv = a * x + b * x_0, for the state x_t times `scale`."""
    if over == "level" and scaling == "none":
        return level_equation(level, alpha)
    if over == "level":
        v, d_level = level, np.ones_like(level)
    elif over == "variance":
        v, d_level = level**2, 0.5 / level
    else:
        assert ends is not None
        v, d_level = vp_time(level, *vp_rates(*ends, eps=1e-3))
    if scaling == "none":
        s, d_s = np.ones_like(level), np.zeros_like(level)
    else:
        s = 1.0 / np.sqrt(1.0 + level**2)
        d_s = -(s**3) * level * d_level
    return v, s / alpha, d_s / s + d_level / level, -s * d_level / level


def level_equation(level: Array, alpha: Array) -> tuple[Array, Array, Array, Array]:
    """(v, scale, a, b) of the probability-flow equation over the level: dx/dv = (x - x_0) / v with x = x_t / alpha."""
    return level, 1.0 / alpha, 1.0 / level, -1.0 / level


def vp_time(level: Array, beta_min: float, beta_max: float) -> tuple[Array, Array]:
    """The time of each level on a VP SDE, and the level's derivative by it."""
    spread = beta_max - beta_min
    t = (np.sqrt(beta_min**2 + 2 * spread * np.log1p(level**2)) - beta_min) / spread
    return t, 0.5 * (beta_min + spread * t) * (level + 1.0 / level)


@dataclass(frozen=True, eq=False)
class _Steps:
    """Steps of a grid from `starts` to `ends`, f64[N]; `columns` add noise at their beginning, if any."""

    grid: Grid
    starts: Array
    ends: Array
    columns: dict[str, Array]

    def part(self, first: int, last: int) -> _Steps:
        columns = {name: column[first:last] for name, column in self.columns.items()}
        return _Steps(self.grid, self.starts[first:last], self.ends[first:last], columns)


def _steps(grid: Grid, churn: Churn | None) -> _Steps:
    """The steps of a grid; with churn each starts at a level raised by noise, as in EDM's algorithm 2."""
    starts, ends, process = grid.times[:-1], grid.times[1:], grid.process
    if churn is None or not churn.amount:
        return _Steps(grid, starts, ends, {})
    level = grid.ratio[:-1]
    most = np.inf if churn.max is None else churn.max
    raised = np.isfinite(level) & (churn.min <= level) & (level <= most)
    gain = 1.0 + min(churn.amount / grid.steps, np.sqrt(2.0) - 1.0)
    hat = process.time_of_level(np.where(raised, level * gain, 1.0))
    hat = np.where(raised, nearest(process, hat) if grid.rounded else hat, starts)
    before, after = process.point(starts), process.point(hat)
    with np.errstate(invalid="ignore"):
        added = np.where(raised, np.maximum(after.level**2 - level**2, 0.0), 0.0)
    columns = {
        "y_x": np.where(raised, after.alpha / before.alpha, 1.0),
        "noise": after.alpha * np.sqrt(added) * churn.noise,
    }
    return _Steps(grid, hat, ends, columns)


def euler(
    grid: Grid, predicts: Prediction, variable: Variable = LEVEL, churn: Churn | None = None, clip: float | None = None
) -> Table:
    """Euler's method. Over the noise level without scaling it is DDIM's deterministic step.

    ValueError: a conversion or noise level that is not finite at one of the times.
    """
    steps = _steps(grid, churn)
    if variable == LEVEL and not steps.columns:
        table = ddim(grid, predicts, clip=clip)
        return Table("euler", table.body, table.columns, clip=clip, prior=table.prior)
    return _euler(steps, predicts, variable, "euler")


def _euler(steps: _Steps, predicts: Prediction, variable: Variable, solver: str) -> Table:
    process = steps.grid.process
    if variable.over == "time":
        columns = evaluation(process, steps.starts, predicts, "flow_velocity")
        columns |= {"x": np.ones(len(steps.starts)), "d": steps.ends - steps.starts}
    else:
        columns = evaluation(process, steps.starts, predicts, "x0")
        here, there = (_equation(steps.grid, times, variable) for times in (steps.starts, steps.ends))
        columns |= euler_step((here.v, here.scale, here.a, here.b), (there.v, there.scale, there.a, there.b))
    body = CHURNED_EULER if steps.columns else LINEAR
    return Table(solver, body, {**columns, **steps.columns}, prior=steps.grid.prior)


def heun(
    grid: Grid,
    predicts: Prediction,
    variable: Variable = LEVEL,
    churn: Churn | None = None,
    last: Literal["heun", "euler"] = "heun",
) -> Table:
    """Heun's method, the explicit trapezoid: the mean of the slopes at both ends of the step.

    A step to the data has no second slope if the network is not evaluated there, or with `last` "euler": it is Euler's.

    ValueError: a conversion that does not exist at an end (a path that is singular at its start or stop).
    """
    steps, count = _steps(grid, churn), grid.steps
    plain = grid.ends_at_data or last == "euler" if variable.over == "time" else grid.sigma[-1] == 0.0
    tail = _euler(steps.part(count - 1, count), predicts, variable, "heun") if plain else None
    if tail is not None and count == 1:
        return tail
    steps = steps.part(0, count - (tail is not None))
    if variable.over == "time":
        return trapezoid(steps, predicts, tail=tail)
    process = grid.process
    columns = evaluation(process, steps.starts, predicts, "x0")
    columns |= evaluation(process, steps.ends, predicts, "x0", second=True)
    here, there = (_equation(grid, times, variable) for times in (steps.starts, steps.ends))
    columns |= heun_step((here.v, here.scale, here.a, here.b), (there.v, there.scale, there.a, there.b))
    return Table("heun", TRAPEZOID, {**columns, **steps.columns}, prior=grid.prior, tail=tail)


Terms = tuple[Array, Array, Array, Array]


def euler_step(start: Terms, end: Terms) -> dict[str, Array]:
    """Euler's step of the `equation`: coefficients of x and of the data d at its start."""
    (v, scale, a, b), (v_next, scale_next, _, _) = start, end
    h = v_next - v
    return {"x": (1.0 + h * a) * scale / scale_next, "d": h * b / scale_next}


def heun_step(start: Terms, end: Terms) -> dict[str, Array]:
    """Heun's step of the `equation`: p = x + h f(x), then x' = x + h / 2 (f(x) + f(p)).

    Coefficients of x and of the data d at its start, for p and (_2) for x'; e_2 is of the data at p.
    """
    # Estimates are of the data: where alpha is nearly 0, x and the noise are almost equal, and what the network says
    # about the data would be lost in their difference.
    (v, scale, a, b), (v_next, scale_next, a_next, b_next) = start, end
    h, rescale = v_next - v, scale / scale_next
    x, d = 1.0 + h * a, h * b
    return {
        "x": x * rescale,
        "d": d / scale_next,
        "x_2": (1.0 + h / 2 * (a + a_next * x)) * rescale,
        "d_2": (d / 2 + h / 2 * a_next * d) / scale_next,
        "e_2": h / 2 * b_next / scale_next,
    }


def trapezoid(
    steps: _Steps,
    predicts: Prediction,
    diffusion: tuple[Array, Array] | None = None,
    tail: Table | None = None,
    solver: str = "heun",
) -> Table:
    """Heun's step of the drift over the process's time: the velocity, plus `diffusion` (at starts, ends) times the
    score if there is any.
    """
    process = steps.grid.process
    columns = {**drift(process, steps.starts, predicts, None if diffusion is None else diffusion[0])}
    columns |= drift(process, steps.ends, predicts, None if diffusion is None else diffusion[1], second=True)
    h, one = steps.ends - steps.starts, np.ones(len(steps.starts))
    columns |= {"x": one, "d": h, "x_2": one, "d_2": h / 2, "e_2": h / 2}
    return Table(solver, TRAPEZOID, {**columns, **steps.columns}, prior=steps.grid.prior, tail=tail)


def drift(
    process: Process, times: Array, predicts: Prediction, diffusion: Array | None, second: bool = False
) -> dict[str, Array]:
    """Columns of an evaluation whose estimate is velocity + diffusion * score, the drift of the reverse-time SDE."""
    columns = evaluation(process, times, predicts, "flow_velocity", second)
    if diffusion is not None:
        point = process.point(times)
        a, b = conversion(predicts, "score", point)
        x, output = ("e_x", "e_output") if second else ("d_x", "d_output")
        columns[x], columns[output] = columns[x] + diffusion * a, columns[output] + diffusion * b
        guide = "e_guide" if second else "d_guide"
        columns[guide] = columns[guide] + diffusion * point.scale * (point.alpha != 0.0)  # as of_score
    return columns


def noisy_steps(grid: Grid, noise: Array) -> _Steps:
    """Steps of a grid that begin by adding `noise` f64[N] times a standard normal."""
    return _Steps(grid, grid.times[:-1], grid.times[1:], {"noise": noise})


def _churned_euler(b: Builder, step: Step) -> tuple[Var, ...]:
    (x,), row = step.state, step.row
    y = step.churned(b, x)
    d = step.estimate(b, y, step.evaluate(y, 0))
    return (weighted_sum(b, "x", (row["x"], y), (row["d"], d)),)


CHURNED_EULER = Body(_churned_euler)
"""``y = y_x * x + noise * z; x' = x * y + d * d``: the noise first, then an evaluation at y."""


def _trapezoid(b: Builder, step: Step) -> tuple[Var, ...]:
    (x,), row = step.state, step.row
    y = step.churned(b, x)
    d = step.estimate(b, y, step.evaluate(y, 0))
    p = weighted_sum(b, "p", (row["x"], y), (row["d"], d))
    e = step.estimate(b, p, step.evaluate(p, 1), "e")
    return (weighted_sum(b, "x", (row["x_2"], y), (row["d_2"], d), (row["e_2"], e)),)


TRAPEZOID = Body(_trapezoid, evaluations=2)
"""``y = y_x * x + noise * z; p = x * y + d * d; x' = x_2 * y + d_2 * d + e_2 * e`` with e the estimate at p."""
