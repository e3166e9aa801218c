"""Spacing: levels of the grid that a consistency model was trained on."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid, level_range
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.levels import karras_levels
from latentc.components.samplers.spacings.spacing import Interval, Spacing

Number = Annotated[int, Field(ge=0, lt=100_000)]


class TrainingLevels(Spacing):
    """Some of `levels` noise levels that are evenly spaced in their `rho`-th root (Karras et al. 2022, equation 5).

    They are counted from the noisiest, 0: every (levels // steps)-th, as diffusers' consistency models choose them, or
    those that `at` lists, as Song et al. (2023, arXiv:2303.01469) search them (their `ts` without the last).
    """

    kind: Literal["training_levels"]
    levels: int = Field(40, gt=1, le=100_000, description="noise levels of the grid")
    at: tuple[Number, ...] | None = Field(
        None, min_length=1, max_length=100_000, description="numbers of the levels; null: evenly many of the grid"
    )
    rho: float = Field(7.0, gt=0, description="exponent: larger puts more levels near the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "training_levels", "levels": 8}

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.at is not None and any(b <= a for a, b in pairwise(self.at)):
            raise ValueError(f"`at` {list(self.at)} must rise")
        if self.at is not None and self.at[-1] >= self.levels:
            raise ValueError(f"`at` {self.at[-1]} is out of range: there are levels 0 to {self.levels - 1}")
        return self

    @property
    def count(self) -> int | None:
        return None if self.at is None else len(self.at)

    def _ends(self, process: Process, interval: Interval) -> tuple[float, float]:
        """The least and the greatest level of the grid. ValueError: the greatest is infinite, or the least is 0."""
        low, high = level_range(process)
        ends = process.point([interval.stop, interval.start]).level
        low, high = max(low, float(ends[0])), min(high, float(ends[1]))
        if not 0 < low < high < np.inf:
            raise ValueError(f"noise levels must fall from a finite level to a positive one, not {high:g} to {low:g}")
        return low, high

    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        if steps > self.levels:
            raise ValueError(f"{steps} steps are out of range for a grid of {self.levels} levels")
        low, high = self._ends(process, interval)
        levels = karras_levels(low, high, self.rho, self.levels)
        chosen = every(levels, steps) if self.at is None else levels[list(self.at)]
        end = interval.stop if interval.closing is None else interval.closing
        return Grid(process, np.append(process.time_of_level(chosen), end), (low, high))

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        process, script.levels = script.process, ("sigma_min", "sigma_max")
        script.alpha_sigma()
        for name, level in zip(script.levels, self._ends(process, interval), strict=True):
            script.argument(name, level)
        rho, levels = script.argument("rho", self.rho), script.argument("grid", self.levels)
        script.line(f"levels = {script.function(karras_levels)}(sigma_min, sigma_max, {rho}, {levels})")
        chosen = f"{script.function(every)}(levels, steps)" if self.at is None else f"levels[{list(self.at)}]"
        end = interval.stop if interval.closing is None else interval.closing
        script.line(f"t = np.append({script.times_of(chosen)}, {end!r})")


def every(levels: Array, steps: int) -> Array:
    """The first of the levels, and others evenly apart, `steps` in all."""
    return levels[:: len(levels) // steps][:steps]
