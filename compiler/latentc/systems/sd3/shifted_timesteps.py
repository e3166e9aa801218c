"""Stable Diffusion 3's steps."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval, Spacing


class ShiftedTimesteps(Spacing):
    """Evenly spaced from noise to the lowest of `timesteps` levels, then shifted; a last step leads to the data.

    A level sigma, from 1 (noise) to 0 (data), becomes shift sigma / (1 + (shift - 1) sigma) (Esser et al. 2024,
    arXiv:2403.03206, 5.3.2). The authors' lowest level is that of a schedule that is shifted itself, so it is shifted
    twice; `lowest: unshifted` shifts it once.
    """

    kind: Literal["shifted_timesteps"]
    shift: float = Field(3.0, gt=0, le=1_000, description="above 1: shorter steps near the noise")
    timesteps: int = Field(1_000, gt=1, le=1_000_000, description="levels of the schedule of training")
    lowest: Literal["shifted", "unshifted"] = Field(
        "shifted", description="the lowest level before the shift: that of the shifted schedule, or 1 / `timesteps`"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "shifted_timesteps"}

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        low = 1.0 / self.timesteps
        low = self.shift * low / (1.0 + (self.shift - 1.0) * low) if self.lowest == "shifted" else low
        level = np.linspace(1.0, low, steps)
        level = self.shift * level / (1.0 + (self.shift - 1.0) * level)
        start, data = interval.start, interval.stop
        return Grid(process, data + (start - data) * np.append(level, 0.0))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        script.alpha_sigma()
        shift = script.argument("shift", self.shift)
        low = repr(1.0 / self.timesteps)
        if self.lowest == "shifted":
            low = f"{shift} * {low} / (1.0 + ({shift} - 1.0) * {low})"
        script.line(f"noisy = np.linspace(1.0, {low}, steps)")
        script.line(f"noisy = {shift} * noisy / (1.0 + ({shift} - 1.0) * noisy)")
        start, data = interval.ends
        script.line(f"t = {data} + ({start} - ({data})) * np.append(noisy, 0.0)")
