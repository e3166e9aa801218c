"""Spacings in the process's own time."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.discrete import Discrete
from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing
from latentc.components.samplers.spacings.timesteps import evenly_spaced


class Even(Spacing):
    """Evenly spaced from the first time to the last; on a schedule, whole timesteps as chosen by improved DDPM and DiT.

    On a continuous process: SiT's grid, EDM's `vp` discretisation, DPM-Solver's time_uniform.
    """

    kind: Literal["even"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "even"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        if isinstance(process, Discrete):
            closing = process.last if interval.closing is None else interval.closing
            return Grid(process, np.append(evenly_spaced(process.steps, steps).astype(np.float64), closing))
        points = np.linspace(interval.start, interval.stop, interval.count(steps))
        return Grid(process, interval.closed(points))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.whole = isinstance(script.process, Discrete)
        script.alpha_sigma()
        if isinstance(script.process, Discrete):
            closing = script.process.last if interval.closing is None else interval.closing
            script.line(f"t = np.append({script.function(evenly_spaced)}(TIMESTEPS, steps), {closing!r})")
        else:
            script.line(f"t = {_even_text(interval)}")


def _even_text(interval: Interval) -> str:
    return interval.closed_text(f"np.linspace({', '.join(interval.ends)}, {interval.count_text})")


class Uniform(Spacing):
    """Evenly spaced in time, with fractional timesteps on a schedule, down to its lowest: DPM-Solver's time_uniform."""

    kind: Literal["uniform"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "uniform"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        return Grid(process, interval.closed(np.linspace(interval.start, interval.stop, interval.count(steps))))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.alpha_sigma()
        script.line(f"t = {_even_text(interval)}")


class Quadratic(Spacing):
    """Evenly spaced in the square root of time, denser towards the data: DPM-Solver's time_quadratic."""

    kind: Literal["quadratic"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "quadratic"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        left = np.linspace(1.0, 0.0, interval.count(steps)) ** 2
        if interval.start > interval.stop >= 0.0:  # time runs towards 0, as in DPM-Solver
            roots = np.linspace(interval.start**0.5, interval.stop**0.5, interval.count(steps))
            return Grid(process, interval.closed(roots**2))
        return Grid(process, interval.closed(interval.stop + (interval.start - interval.stop) * left))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.alpha_sigma()
        start, stop = interval.ends
        if interval.start > interval.stop >= 0.0:
            text = f"np.linspace({start} ** 0.5, ({stop}) ** 0.5, {interval.count_text}) ** 2"
        else:
            text = f"{stop} + ({start} - ({stop})) * np.linspace(1.0, 0.0, {interval.count_text}) ** 2"
        script.line(f"t = {interval.closed_text(text)}")


class Shifted(Spacing):
    """Evenly spaced in time, then shifted: progress s from noise (0) to data (1) becomes shift s / (1 + (shift - 1) s).

    Steps are shorter near the noise if `shift` is below 1 (LightningDiT's `timestep_shift`, Yao et al. 2025,
    arXiv:2501.01423; the shift of Stable Diffusion 3 is 1 / `shift`: Esser et al. 2024, arXiv:2403.03206, 5.3.2).
    """

    kind: Literal["shifted"]
    shift: float = Field(gt=0, le=1_000, description="below 1: shorter steps near the noise; above: near the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "shifted", "shift": 0.3}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        way = np.linspace(0.0, 1.0, interval.count(steps))
        way = self.shift * way / (1.0 + (self.shift - 1.0) * way)
        return Grid(process, interval.closed(interval.start + (interval.stop - interval.start) * way))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.alpha_sigma()
        (start, stop), shift = interval.ends, script.argument("shift", self.shift)
        script.line(f"s = np.linspace(0.0, 1.0, {interval.count_text})")
        script.line(f"s = {shift} * s / (1.0 + ({shift} - 1.0) * s)")
        script.line(f"t = {interval.closed_text(f'{start} + ({stop} - {start}) * s')}")
