"""The formulas of a process as source text: the levels at its times, and the times of its levels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentc.components.formula_source import Sources
from latentc.components.processes.discrete import (
    BETAS,
    Discrete,
    at_timesteps,
    between_timesteps,
    schedule_ends,
    time_between,
)
from latentc.components.processes.formulas import NUMPY
from latentc.components.processes.process import Process, bisected, time_is_level


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
    if process.schedule != "cosine":
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
    return f"{sources.function(bisected)}({levels}, {level()}, {process.first!r}, {process.last!r})"


__all__ = ["alpha_sigma", "times_of_levels"]
