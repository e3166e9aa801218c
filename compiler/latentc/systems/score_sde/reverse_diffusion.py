"""Steps of reverse diffusion (Song et al. 2021, arXiv:2011.13456, appendix E).

Predictor-corrector samplers take noisy steps; a solver of the probability flow ends with one without noise.
"""

from __future__ import annotations

import numpy as np

from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.grid import evaluation
from latentc.components.samplers.table import LINEAR, Table
from latentc.systems.score_sde.discrete_steps import in_steps


def reverse_diffusion(process: Process, times: Array, count: int, of_score: float = 1.0) -> tuple[Array, Array, Array]:
    """The factors of x, of the score and of the noise in the steps at these times, of `count` that make the process.

    `of_score`: 1 for the SDE, 1/2 for the probability flow.
    """
    stepped = in_steps(process, count)
    if stepped is None:
        return euler_maruyama(process, times, count, of_score)
    index = index_of(times, count)
    kept, added = stepped.keep[index], stepped.added[index]
    return 2 - kept, of_score * added, np.sqrt(added)


def euler_maruyama(process: Process, times: Array, count: int, of_score: float = 1.0) -> tuple[Array, Array, Array]:
    """The same of Euler and Maruyama's discretisation."""
    drift, diffusion = _sde_of(process, times)
    end = process.data if process.data is not None and np.isfinite(process.data) else 0.0
    size = abs(process.first - end) / count
    return 1 - drift * size, of_score * diffusion * size, np.sqrt(diffusion * size)


def denoising(target: Parameterization, time: float, count: int) -> Table:
    """The last step of a solver that has reached `time`, one of `count`, without noise."""
    times = np.array([time])
    keep, score, _ = reverse_diffusion(target.process, times, count)
    columns = evaluation(target.process, times, target.predicts, "score")
    return Table("denoising", LINEAR, {**columns, "x": keep, "d": score}, substeps=0)


def index_of(times: Array, count: int) -> Array:
    """The discrete step of each time, as published code truncates it in float32."""
    return (times.astype(np.float32) * np.float32(count - 1)).astype(np.int64)


def _sde_of(process: Process, times: Array) -> tuple[Array, Array]:
    """(f, g^2) of the forward SDE dx = f x dt + g dW at each time, f64 of their shape; t grows towards the noise."""
    point, way = process.point(times), np.sign(process.first - process.last)
    drift = way * point.d_alpha / point.alpha
    return drift, np.maximum(2 * point.sigma * (way * point.d_sigma - drift * point.sigma), 0.0)


__all__ = ["denoising", "euler_maruyama", "index_of", "reverse_diffusion"]
