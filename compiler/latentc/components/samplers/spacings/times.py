"""Spacings in the process's own time."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from latentc.components.processes.discrete import Discrete
from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.spacings.spacing import Interval, Spacing
from latentc.components.samplers.spacings.timesteps import respaced


class Even(Spacing):
    """Evenly from the first time to the last: of a schedule whole timesteps, as improved DDPM and DiT choose them.

    On a continuous process: SiT's grid, EDM's `vp` discretisation, DPM-Solver's time_uniform.
    """

    kind: Literal["even"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "even"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        if isinstance(process, Discrete):
            closing = process.last if interval.closing is None else interval.closing
            return Grid(process, np.append(respaced(process.steps, str(steps)).astype(np.float64), closing))
        points = np.linspace(interval.start, interval.stop, interval.count(steps))
        return Grid(process, interval.closed(points))


class Uniform(Spacing):
    """Evenly in time, also between the timesteps of a schedule, and down to its lowest: DPM-Solver's time_uniform."""

    kind: Literal["uniform"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "uniform"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        return Grid(process, interval.closed(np.linspace(interval.start, interval.stop, interval.count(steps))))


class Quadratic(Spacing):
    """Evenly in the square root of time, closer towards the data: DPM-Solver's time_quadratic."""

    kind: Literal["quadratic"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "quadratic"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        left = np.linspace(1.0, 0.0, interval.count(steps)) ** 2
        if interval.start > interval.stop >= 0.0:  # time runs towards 0, as in DPM-Solver
            roots = np.linspace(interval.start**0.5, interval.stop**0.5, interval.count(steps))
            return Grid(process, interval.closed(roots**2))
        return Grid(process, interval.closed(interval.stop + (interval.start - interval.stop) * left))


__all__ = ["Even", "Quadratic", "Uniform"]
