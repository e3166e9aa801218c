"""Steps of reverse diffusion (Song et al. 2021, arXiv:2011.13456, appendix E).

Predictor-corrector samplers take noisy steps; a solver of the probability flow ends with one without noise.
"""

from __future__ import annotations

import numpy as np

from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.grid import evaluation
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Table
from latentc.systems.score_sde.discrete_steps import IN_STEPS, in_steps


def reverse_diffusion(process: Process, times: Array, count: int, of_score: float = 1.0) -> tuple[Array, Array, Array]:
    """The factors of x, of the score and of the noise in the steps at these times, of `count` that make the process.

    `of_score`: 1 for the SDE, 1/2 for the probability flow.
    """
    stepped = in_steps(process, count)
    if stepped is None:
        return euler_maruyama(process, times, count, of_score)
    keep, added, _ = (column[index_of(times, count)] for column in stepped)
    return reverse_diffusion_step(keep, added, of_score)


def euler_maruyama(process: Process, times: Array, count: int, of_score: float = 1.0) -> tuple[Array, Array, Array]:
    """The same of Euler and Maruyama's discretisation."""
    point = process.point(times)
    terms = sde_terms(point.alpha, point.sigma, point.d_alpha, point.d_sigma, _way(process))
    return euler_maruyama_step(*terms, _length(process) / count, of_score)


def write_step(script: Script, predictor: str, process: Process, times: str, count: str, of_score: float = 1.0) -> None:
    """Writes the factors of x, of the score and of the noise of a predictor's steps: `factor`, `score` and `noise`.

    For all but `euler_maruyama`, the line of `keep`, `added` and `ancestral` is there (see `write_in_steps`).
    """
    if predictor == "euler_maruyama":
        at = f"*{script.alpha_sigma()}({times}), *{script.sources.method(process, 'derivatives')}({times})"
        terms = f"*{script.function(sde_terms)}({at}, {_way(process)!r}), {_length(process)!r} / {count}, {of_score}"
        script.line(f"factor, score, noise = {script.function(euler_maruyama_step)}({terms})")
    elif predictor == "reverse_diffusion":
        script.line(f"factor, score, noise = {script.function(reverse_diffusion_step)}(keep, added, {of_score})")
    else:
        script.line("factor, score, noise = 1 / keep, added / keep, ancestral")


def write_in_steps(script: Script, process: Process, times: str, count: str) -> None:
    """Writes the line of `in_steps` at times."""
    steps, names = IN_STEPS[type(process)]
    given = ", ".join(script.sources.constant(name.upper(), getattr(process, name)) for name in names)
    index = f"{script.function(index_of)}({times}, {count})"
    script.line(f"keep, added, ancestral = (each[{index}] for each in {script.function(steps)}({count}, {given}))")


def reverse_diffusion_step(keep: Array, added: Array, of_score: float) -> tuple[Array, Array, Array]:
    """Factors of x, of the score and of the noise in steps of reverse diffusion (Song et al. 2021, appendix E)."""
    return 2 - keep, of_score * added, np.sqrt(added)


def euler_maruyama_step(drift: Array, diffusion: Array, size: float, of_score: float) -> tuple[Array, Array, Array]:
    """Factors of x, of the score and of the noise in Euler and Maruyama's steps of the reverse-time SDE."""
    return 1 - drift * size, of_score * diffusion * size, np.sqrt(diffusion * size)


def denoising(target: Parameterization, time: float, count: int) -> Table:
    """The last step of a solver that has reached `time`, one of `count`, without noise."""
    times = np.array([time])
    keep, score, _ = reverse_diffusion(target.process, times, count)
    columns = evaluation(target.process, times, target.predicts, "score")
    return Table("denoising", LINEAR, {**columns, "x": keep, "d": score}, substeps=0)


def write_denoising(script: Script, count: int) -> None:
    """Writes `denoising` at the last of the times `t`."""
    process, at = script.process, "t[-1:]"
    stepped = in_steps(process, count) is not None
    if stepped:
        write_in_steps(script, process, at, str(count))
    write_step(script, "reverse_diffusion" if stepped else "euler_maruyama", process, at, str(count))
    script.loop(f"{script.evaluation('score', name='evaluation_of_score')}({at})", '{"x": factor, "d": score}')


def index_of(times: Array, count: int) -> Array:
    """The discrete step of each time, as published code truncates it in float32."""
    return (times.astype(np.float32) * np.float32(count - 1)).astype(np.int64)


def sde_terms(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, way: float) -> tuple[Array, Array]:
    """(f, g^2) of the forward SDE dx = f x dt + g dW; `way` is 1 if t grows towards the noise, else -1."""
    drift = way * d_alpha / alpha
    return drift, np.maximum(2 * sigma * (way * d_sigma - drift * sigma), 0.0)


def _way(process: Process) -> float:
    return float(np.sign(process.first - process.last))


def _length(process: Process) -> float:
    """The time from noise to data."""
    end = process.data if process.data is not None and np.isfinite(process.data) else 0.0
    return abs(process.first - end)
