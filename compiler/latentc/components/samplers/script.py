"""A sampler's table as formulas in source text, the `schedule.py` of an emitted project.

A `Script` collects the functions that the process, the spacing and the solver need, the arguments of the schedule, the
lines of its body, and the columns of each loop. Names of columns are those of `Table`, but that an estimate is
``c_skip * x + c_out * output`` (EDM's names), and that of a second evaluation ``c_skip_2 * p + c_out_2 * output``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from latentc.components.formula_source import NoSourceError, Sources
from latentc.components.processes.discrete import (
    BETAS,
    Discrete,
    at_timesteps,
    between_timesteps,
    schedule_ends,
    time_between,
)
from latentc.components.processes.formulas import NUMPY
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization, Process, bisected, time_is_level
from latentc.components.samplers.grid import nearest_timesteps, timesteps_of

RENAMED = {"d_x": "c_skip", "d_output": "c_out", "e_x": "c_skip_2", "e_output": "c_out_2"}
"""Columns of a table by their names in a schedule."""


class Script:
    """The text of one schedule. `loops`: expressions of the columns of each loop. `prior`: of the first state's scale.

    `arguments` {name: default}: of the schedule. `levels`: the ends of a grid of noise levels as expressions, if any.
    `rounded`: to whole timesteps. `whole`: the grid is one of whole timesteps; `fractional`: there are other times.
    """

    def __init__(self, target: Parameterization) -> None:
        self.target, self.process, self.sources = target, target.process, Sources()
        self.preconditioning = target.process.preconditioning
        self.arguments: dict[str, Any] = {}
        self.lines: list[str] = []
        self.loops: list[str] = []
        self.prior = ""
        self.levels: tuple[str, str] | None = None
        self.rounded = False
        self.whole = False
        self.fractional = False

    def argument(self, name: str, default: Any) -> str:
        """The name of an argument of the schedule."""
        if self.arguments.setdefault(name, default) != default:
            raise NoSourceError(f"two arguments are called {name}")
        return name

    def line(self, code: str) -> None:
        self.lines.append(re.sub(r"(?<![\w.])inf\b", "math.inf", code))

    def function(self, fn: Any, **static: Any) -> str:
        """The name of a pure function, printed for the arguments `static`."""
        return self.sources.function(fn, **static)

    # ---- the process

    def alpha_sigma(self) -> str:
        """The name of the function (alpha, sigma) of times."""
        return alpha_sigma(self.process, self.sources, self.whole and not self.fractional)

    @property
    def constant_alpha(self) -> bool:
        """True if the data is not scaled."""
        return self.sources.expression(self.process, "alpha") == "1.0" if not self.process.WHOLE else False

    def level(self) -> str:
        """The name of the function sigma / alpha of times."""
        lines = ["def level(t: Array) -> Array:", '    """The noise level sigma / alpha."""']
        lines += [f"    alpha, sigma = {self.alpha_sigma()}(t)", "    return sigma / alpha"]
        return self.sources.define("level", "\n".join(lines))

    def times_of(self, levels: str) -> str:
        """The times of noise levels, as an expression."""
        return times_of_levels(self.process, self.sources, levels, self.level)

    def nearest(self, times: str) -> str:
        """The whole timesteps nearest to times, as an expression; the times themselves unless the grid is `rounded`."""
        if not self.rounded or not self.process.WHOLE:
            return times
        count = self.sources.constant("TIMESTEPS", timesteps_of(self.process))
        return f"{self.function(nearest_timesteps)}({times}, {self.level()}, {count})"

    def evaluation(self, estimate: Prediction, diffused: bool = False, name: str = "evaluation") -> str:
        """The name of the function that gives the columns of an evaluation at times.

        If `diffused`, the estimate is the velocity plus `w` times the score.
        """
        sources, process, scaled = self.sources, self.process, self.preconditioning
        skip, out = conversion_text(self.target.predicts, estimate, self)
        if diffused:
            score_skip, score_out = conversion_text(self.target.predicts, "score", self)
            skip, out = _add(skip, _mul("w", score_skip)), _add(out, _mul("w", score_out))
        columns = {"t": sources.inline(process, "network_time")}
        if scaled is not None and (scale := sources.inline(scaled, "input_scale")) != "1.0":
            columns["c_in"] = scale
        out = "np.full_like(t, -1.0)" if out == "-1" else out
        columns |= {name: text for name, text, usual in (("c_skip", skip, "0"), ("c_out", out, "1")) if text != usual}
        text = "\n".join(columns.values())
        lines = [f"def {name}(t: Array{', w: Array' if diffused else ''}) -> dict[str, Array]:"]
        what = {"x0": "the data", "noise": "the noise", "score": "the score"}.get(
            estimate, "the velocity"
        ) + " plus w times the score" * diffused
        lines.append(f'    """Coefficients of an evaluation at time t. c_skip * x + c_out * output is {what}."""')
        if re.search(r"\b(alpha|sigma)\b", text):
            lines.append(f"    alpha, sigma = {self.alpha_sigma()}(t)")
        if re.search(r"\bd_(alpha|sigma)\b", text):
            lines.append(f"    d_alpha, d_sigma = {sources.method(process, 'derivatives')}(t)")
        for names, formula in (("own_skip, own_out", "denoiser"), ("f_x0, f_noise", "functional")):
            if names.partition(",")[0] in text:
                lines.append(f"    {names} = {sources.method(scaled, formula)}(t)")
        inside = ", ".join(f'"{name}": {text}' for name, text in columns.items())
        lines.append(f"    return {{{inside}}}")
        return sources.define(name, "\n".join(lines).replace("own_", "c_"))

    def start(self) -> None:
        """After the line of the times `t`: the levels there, and the first state's scale."""
        self.line(f"alpha, sigma = {self.alpha_sigma()}(t)")
        first = self.process.first
        scale = self.process.prior_scale(first)
        self.prior = "sigma[0]" if scale not in (1.0, self.process.prior_scale(self.process.last)) else repr(scale)

    # ---- the result

    def loop(self, *columns: str) -> None:
        """Adds a loop whose columns are the union of these."""
        self.loops.append(" | ".join(columns))

    def second(self, evaluation: str) -> str:
        """The columns of a second evaluation."""
        lines = ["def second(columns: dict[str, Array]) -> dict[str, Array]:"]
        lines += ['    """The columns under the names of a step\'s second evaluation."""']
        lines += ['    return {f"{name}_2": column for name, column in columns.items()}']
        return f"{self.sources.define('second', chr(10).join(lines))}({evaluation})"


# ---- conversions, as in `prediction.conversion`


def conversion_text(source: Prediction, target: Prediction, script: Script) -> tuple[str, str]:
    """The coefficients (a, b) with target = a * x + b * source as expressions, by Cramer's rule."""
    if source == target:
        return "0", "1"
    if source == "preconditioned" and target == "x0":
        return "own_skip", "own_out"
    (u, w), (u_out, w_out) = _functional(source), _functional(target)
    if u == u_out == "0":
        return "0", _div(w_out, w)
    determinant = _sub(_mul("alpha", w), _mul("sigma", u))
    a = _div(_sub(_mul(u_out, w), _mul(w_out, u)), determinant)
    return a, _div(_sub(_mul("alpha", w_out), _mul("sigma", u_out)), determinant)


def _functional(kind: Prediction) -> tuple[str, str]:
    found = {
        "noise": ("0", "1"),
        "x0": ("1", "0"),
        "velocity": ("-sigma", "alpha"),
        "score": ("0", "(-1.0 / sigma)"),
        "scaled_score": ("0", "-1"),
        "flow_velocity": ("d_alpha", "d_sigma"),
        "preconditioned": ("f_x0", "f_noise"),
    }
    if kind not in found:
        raise NoSourceError(f"`{kind}` has no formula")
    return found[kind]


def _atom(text: str) -> str:
    return text if re.fullmatch(r"-?[\w.]+|\([^()]*\)", text) else f"({text})"


def _negative(text: str) -> str:
    return text[1:] if re.fullmatch(r"-[\w.]+", text) else f"-{_atom(text)}"


def _mul(a: str, b: str) -> str:
    if "0" in (a, b):
        return "0"
    for one, other in ((a, b), (b, a)):
        if one in ("1", "-1"):
            return other if one == "1" else _negative(other)
    return f"{_atom(a)} * {_atom(b)}" if not b.startswith("-") else f"{b} * {_atom(a)}"


def _add(a: str, b: str) -> str:
    return b if a == "0" else a if b == "0" else f"{a} + {b}"


def _sub(a: str, b: str) -> str:
    if b == "0":
        return a
    if a == "0":
        return _negative(b)
    return f"{a} + {b[1:]}" if b.startswith("-") else f"{a} - {b}"


def _div(a: str, b: str) -> str:
    if a == "0" or b == "1":
        return a
    if b.startswith("-"):
        return _div(_negative(a), b[1:])
    a = "1.0" if a == "1" else "-1.0" if a == "-1" else a
    return f"{_atom(a)} / {_atom(b)}"


def alpha_sigma(process: Process, sources: Sources, whole: bool) -> str:
    """The name of a printed function (alpha, sigma) of the times t, f64; if `whole`, of whole timesteps only."""
    doc = "The process at times t: x_t = alpha * x_0 + sigma * noise."
    if isinstance(process, Discrete):
        doc, result = f"{doc} t = -1 is the data.", _of_schedule(process, sources, whole)
    else:
        result = _of_formulas(process, sources)
    lines = ["def alpha_sigma(t: Array) -> tuple[Array, Array]:", f'    """{doc}"""', f"    return {result}"]
    return sources.define("alpha_sigma", "\n".join(lines))


def _of_formulas(process: Process, sources: Sources) -> str:
    alpha, sigma = (
        sources.expression(process, name) or f"{sources.method(process, name, f'{name}_of')}(t)"
        for name in ("alpha", "sigma")
    )
    alpha = "np.ones_like(t)" if alpha == "1.0" else alpha
    if process.data is not None:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rounded = np.any(np.asarray(process.sigma(NUMPY, np.float64(process.data))) != 0.0)
        sigma = f"np.where(t == {process.data!r}, 0.0, {sigma})" if rounded else sigma
    return f"{alpha}, {sigma}"


def _of_schedule(process: Discrete, sources: Sources, whole: bool) -> str:
    names = [sources.constant("TIMESTEPS", process.steps)]
    if process.schedule == "cosine":
        names.append(sources.constant("BETA_MAX", process.beta_max))
    else:
        start, end = schedule_ends(process.schedule, process.steps, process.beta_start, process.beta_end)
        names += [sources.constant("BETA_START", start), sources.constant("BETA_END", end)]
    betas = f"{sources.function(BETAS[process.schedule])}({', '.join(names)})"
    lines = ["def alphas_cumprod() -> Array:", '    """alpha^2 of every timestep."""']
    lines.append(f"    return np.cumprod(1.0 - {betas}, dtype=np.float64)")
    sources.define("alphas_cumprod", "\n".join(lines))
    static = {} if whole else {"interpolation": process.interpolation}
    return f"{sources.function(at_timesteps if whole else between_timesteps, **static)}(t, alphas_cumprod())"


def times_of_levels(process: Process, sources: Sources, levels: str, level: Callable[[], str]) -> str:
    """The times of noise levels as an expression; `level` writes the function of the levels at times."""
    if isinstance(process, Discrete):
        return f"{sources.function(time_between, interpolation=process.interpolation)}({levels}, alphas_cumprod())"
    if time_is_level(process):
        return levels
    if type(process).time_of_level is not Process.time_of_level:
        return f"{sources.method(process, 'time_of_level')}({levels})"
    return f"{sources.function(bisected)}({levels}, {level()}, {process.first!r}, {process.last!r})"
