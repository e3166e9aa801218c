"""The base class of spacings: how the steps of a sampler are spread over a process."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from latentc.components import Component
from latentc.components.formula_source import NoSourceError
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Process
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script


@dataclass(frozen=True)
class Interval:
    """The part of a process that a sampler covers: its times from `start` to `stop`.

    `closing`: where a last step leads after the evaluation at `stop`; None: the last step ends at `stop`, where the
    network need not be evaluated. `beyond`: the sampler lays out one timestep more than it has steps and leaves out
    the lowest, as multistep solvers on a schedule do. `stop_text`: `stop` as an expression of a schedule's arguments.
    """

    start: float
    stop: float
    closing: float | None = None
    beyond: bool = False
    stop_text: str = ""

    @property
    def ends(self) -> tuple[str, str]:
        """`start` and `stop` as expressions."""
        return repr(self.start), self.stop_text or repr(self.stop)

    def closed(self, points: Array) -> Array:
        """The points, and the closing one."""
        return points if self.closing is None else np.append(points, self.closing)

    def closed_text(self, points: str) -> str:
        """The points, and the closing one, as an expression."""
        return points if self.closing is None else f"np.append({points}, {self.closing!r})"

    @property
    def count_text(self) -> str:
        """`count` as an expression of `steps`."""
        return "steps + 1" if self.closing is None else "steps"

    def count(self, steps: int) -> int:
        """How many points a grid of `steps` steps has before the closing one."""
        return steps + (self.closing is None)


class Spacing(Component):
    """Where a sampler evaluates, as a function of the process and the number of steps."""

    @property
    def count(self) -> int | None:
        """The number of steps if the spacing fixes it, otherwise None."""
        return None

    @abstractmethod
    def grid(self, process: Process, steps: int, interval: Interval) -> Grid:
        """ValueError: there is no such grid."""

    def write(self, script: Script, steps: int, interval: Interval) -> None:
        """Writes the line of the times `t` f64[N + 1], in the argument `steps`. NoSourceError: there is none."""
        raise NoSourceError(f"spacing `{self.kind}` has no formulas")
