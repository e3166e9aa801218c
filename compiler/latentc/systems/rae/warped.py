"""Steps on a shifted grid that ends before the data."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing


class Warped(Spacing):
    """Evenly spaced from noise to the share `until` of the way to the data, then shifted (RAE, Zheng et al. 2025,
    arXiv:2510.11690).

    A distance t from the data, from 1 (noise) to 0, becomes shift t / (1 + (shift - 1) t), as in training.
    """

    kind: Literal["warped"]
    shift: float = Field(gt=0, le=1_000, description="above 1: shorter steps near the noise")
    until: float = Field(0.999, gt=0, le=1, description="share of the way to the data, before the shift")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "warped", "shift": 3.0}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        left = 1.0 - np.linspace(0.0, self.until, interval.count(steps))
        left = self.shift * left / (1.0 + (self.shift - 1.0) * left)
        return Grid(process, interval.closed(interval.stop + (interval.start - interval.stop) * left))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.alpha_sigma()
        (start, stop), shift = interval.ends, script.argument("shift", self.shift)
        script.line(f"left = 1.0 - np.linspace(0.0, {self.until!r}, {interval.count_text})")
        script.line(f"left = {shift} * left / (1.0 + ({shift} - 1.0) * left)")
        script.line(f"t = {interval.closed_text(f'{stop} + ({start} - ({stop})) * left')}")
