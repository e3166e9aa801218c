"""The base class of spacings: how the steps of a sampler are spread over a process."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from latentc.components import Component
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid


@dataclass(frozen=True)
class Interval:
    """The part of a process that a sampler covers: its times from `start` to `stop`.

    `closing`: where a last step leads after the evaluation at `stop`; None: the last step ends at `stop`, where the
    network need not be evaluated. `beyond`: the sampler lays out one timestep more than it has steps and leaves out
    the lowest, as multistep solvers on a schedule do.
    """

    start: float
    stop: float
    closing: float | None = None
    beyond: bool = False

    def closed(self, points: Array) -> Array:
        """The points, and the closing one."""
        return points if self.closing is None else np.append(points, self.closing)

    def count(self, steps: int) -> int:
        """How many points a grid of `steps` steps has before the closing one."""
        return steps + (self.closing is None)


class Spacing(Component):
    """Where a sampler evaluates, as a function of the process and the number of steps."""

    @property
    def count(self) -> int | None:
        """The number of steps, if the spacing itself says it."""
        return None

    @abstractmethod
    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        """ValueError: there is no such grid."""


__all__ = ["Interval", "Spacing"]
