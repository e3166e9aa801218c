"""A chain of its own noise schedule on a network that was trained on another one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid, level_range
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing

Beta = Annotated[float, Field(gt=0, lt=1)]


class Betas(Spacing):
    """The noise levels of a short schedule, given by its betas: DiffWave's fast sampling (Kong et al. 2021).

    The network receives the times, possibly fractional, at which its own process has these levels.
    """

    kind: Literal["betas"]
    values: tuple[Beta, ...] = Field(
        min_length=1, max_length=100_000, description="variance added at each level, from data to noise"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "betas", "values": [0.001, 0.1]}

    @property
    def count(self) -> int | None:
        return len(self.values)

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        if steps != len(self.values):
            raise ValueError(f"there are {len(self.values)} betas, but `steps` is {steps}")
        bar = np.cumprod(1.0 - np.array(self.values))
        levels = np.sqrt((1.0 - bar) / bar)
        low, high = level_range(process)
        for level in (levels[0], levels[-1]):
            if not low * (1 - 1e-9) <= level <= high * (1 + 1e-9):
                message = (
                    f"the betas lead to noise level {level:g}, but the process only has levels {low:g} to {high:g}"
                )
                raise ValueError(f"{message}: change the first beta or use smaller ones")
        return Grid(process, np.append(process.time_of_level(levels)[::-1], _end(process)))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.alpha_sigma()
        script.line(f"bar = np.cumprod(1.0 - np.array({list(self.values)}))")
        times = script.times_of("np.sqrt((1.0 - bar) / bar)")
        script.line(f"t = np.append({times}[::-1], {_end(script.process)!r})")


def _end(process: Process) -> float:
    return process.last if process.data is None else process.data
