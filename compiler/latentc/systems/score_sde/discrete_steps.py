"""Processes of noise levels as steps of an SDE, and SDEs in steps (Song et al. 2021, arXiv:2011.13456, appendix B)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.processes.sde import Ve, Vp
from latentc.systems.score_sde.geometric import Geometric


@dataclass(frozen=True)
class Steps:
    """A process in `N` discrete steps, f64[N] from data to noise: x_k = keep x_(k-1) + sqrt(added) noise.

    `ancestral`: the standard deviation of the noise that ancestral sampling adds on the way back from step k.
    """

    keep: Array
    added: Array
    ancestral: Array


def in_steps(process: Process, count: int) -> Steps | None:
    """An SDE in `count` discrete steps, as its authors write it; None if they do not, or for too few steps."""
    if isinstance(process, Vp):
        added = np.linspace(process.beta_min, process.beta_max, count) / count
        return Steps(np.sqrt(1.0 - added), added, np.sqrt(added)) if added[-1] < 1 else None
    if isinstance(process, Ve):
        variance = np.geomspace(process.sigma_min, process.sigma_max, count) ** 2
        below = np.append(0.0, variance[:-1])
        return Steps(np.ones(count), variance - below, np.sqrt(below * (variance - below) / variance))
    return None


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
        last = np.float32(process.steps - 1)

        def timestep(s: Array) -> Array:
            return np.rint((np.float32(1) - s.astype(np.float32)) * last).astype(np.float64)

        ve = Ve(kind="ve", sigma_min=process.sigma_min, sigma_max=process.sigma_max, eps=1e-5)
        return Limit(ve, timestep, timestep)
    if not isinstance(process, Discrete) or process.schedule != "linear":
        return None
    steps, offset = process.steps, process.time_offset

    def scaled(s: Array) -> Array:
        return (s.astype(np.float32) * np.float32(steps - 1)).astype(np.float64)

    vp = Vp(kind="vp", beta_min=steps * float(process.betas[0]), beta_max=steps * float(process.betas[-1]))
    return Limit(vp, lambda s: np.floor(scaled(s)), lambda s: scaled(s) + offset)


__all__ = ["Limit", "Steps", "in_steps", "limit"]
