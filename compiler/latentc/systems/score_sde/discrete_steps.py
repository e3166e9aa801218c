"""Processes of noise levels as steps of an SDE, and SDEs in steps (Song et al. 2021, arXiv:2011.13456, appendix B)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.processes.sde import Ve, Vp
from latentc.systems.score_sde.geometric import Geometric


def vp_steps(count: int, beta_min: float, beta_max: float) -> tuple[Array, Array, Array]:
    """The VP SDE in `count` steps: the factor of x, the variance added, ancestral noise. ValueError: too few."""
    added = np.linspace(beta_min, beta_max, count) / count
    if added[-1] >= 1:
        raise ValueError(f"{count} steps are too few: more noise would be added than a state has")
    return np.sqrt(1.0 - added), added, np.sqrt(added)


def ve_steps(count: int, sigma_min: float, sigma_max: float) -> tuple[Array, Array, Array]:
    """The VE SDE in `count` steps: the factor of x, the variance added, the deviation of ancestral noise."""
    variance = np.geomspace(sigma_min, sigma_max, count) ** 2
    below = np.append(0.0, variance[:-1])
    return np.ones(count), variance - below, np.sqrt(below * (variance - below) / variance)


IN_STEPS: dict[type, tuple[Callable[..., tuple[Array, Array, Array]], tuple[str, str]]] = {
    Vp: (vp_steps, ("beta_min", "beta_max")),
    Ve: (ve_steps, ("sigma_min", "sigma_max")),
}
"""SDEs that their authors write in discrete steps: the function of the steps, and the SDE's settings that it takes."""


def in_steps(process: Process, count: int) -> tuple[Array, Array, Array] | None:
    """An SDE in `count` discrete steps from data to noise: x_k = keep x_(k-1) + sqrt(added) noise.

    f64[count] each: keep, added, and the standard deviation of the noise that ancestral sampling adds on the way back
    from step k. None for a process that its authors do not write so, or for too few steps.
    """
    if type(process) not in IN_STEPS or (isinstance(process, Vp) and process.beta_max / count >= 1):
        return None
    steps, names = IN_STEPS[type(process)]
    return steps(count, *(getattr(process, name) for name in names))


def timestep_of(s: Array, timesteps: int) -> Array:
    """The timestep between whole ones at time s of the VP SDE, in float32."""
    return (s.astype(np.float32) * np.float32(timesteps - 1)).astype(np.float64)


def level_number(s: Array, timesteps: int) -> Array:
    """The noise level at time s of the VE SDE, counted from the noise and rounded in float32."""
    return np.rint((np.float32(1) - s.astype(np.float32)) * np.float32(timesteps - 1)).astype(np.float64)


@dataclass(frozen=True)
class Limit:
    """The SDE that a process of noise levels discretises, for networks that know those levels only.

    At time s of the `sde`, `timestep(s)` is the time whose noise the network predicts, and `time(s)` its time input.
    """

    sde: Process
    timestep: Callable[[Array], Array]
    time: Callable[[Array], Array]


def limit(process: Process) -> Limit | None:
    """The SDE that a process discretises, as `continuous: False` in the authors' code; None if there is none."""
    if isinstance(process, Geometric):
        ve = Ve(kind="ve", sigma_min=process.sigma_min, sigma_max=process.sigma_max, eps=1e-5)
        return Limit(ve, *[partial(level_number, timesteps=process.steps)] * 2)
    if not isinstance(process, Discrete) or process.schedule != "linear":
        return None
    steps, offset = process.steps, process.time_offset
    vp = Vp(kind="vp", beta_min=steps * float(process.betas[0]), beta_max=steps * float(process.betas[-1]))
    return Limit(vp, lambda s: np.floor(timestep_of(s, steps)), lambda s: timestep_of(s, steps) + offset)
