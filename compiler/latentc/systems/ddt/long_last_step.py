"""Even steps and a last one of a length of its own."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing


class LongLastStep(Spacing):
    """Evenly spaced in time up to the last step, which takes the share `size` of the way (DDT, Wang et al. 2025)."""

    kind: Literal["long_last_step"]
    size: float = Field(0.04, gt=0, lt=1, description="the last step's share of the way from noise to data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "long_last_step"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        count = interval.count(steps) - 1
        way = np.append(np.linspace(0.0, 1.0 - self.size, count), 1.0)
        return Grid(process, interval.closed(interval.start + (interval.stop - interval.start) * way))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.alpha_sigma()
        (start, stop), size = interval.ends, script.argument("last_step", self.size)
        script.line(f"s = np.append(np.linspace(0.0, 1.0 - {size}, {interval.count_text} - 1), 1.0)")
        script.line(f"t = {interval.closed_text(f'{start} + ({stop} - {start}) * s')}")
