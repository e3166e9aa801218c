"""Shared by the multistep solvers: where they evaluate, and their steps in log signal-to-noise.

DPM-Solver++ and UniPC integrate the probability-flow equation exactly in its linear part over lambda =
log(alpha / sigma) and approximate the network by a polynomial through earlier estimates. A step of size h = lambda' -
lambda is linear in the state and those estimates, so all of it is coefficients. They hold for any process.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.base import ArraySampler, ClippedSampler, Final, path_interval, spaced
from latentc.components.samplers.spacings.spacing import Interval


class Gridded(ArraySampler):
    """A sampler that reuses the estimates of earlier steps, one evaluation per step."""

    SPACING: ClassVar[str] = "linspace"
    BEYOND: ClassVar[bool] = True

    steps: int = Field(20, gt=0, le=100_000, description="number of steps, with one network evaluation each")
    final: Final = Field("zero", description="end of the last step: the data, or the lowest noise level")
    eps: float = Field(
        1e-3, gt=0, lt=0.5, description="distance kept from a path's noise end (and with sigma_min, from the data)"
    )

    def interval(self, target: Parameterization) -> Interval:
        process = target.process
        if process.data == process.last:
            return path_interval(target, self.eps, self.final == "zero")
        closing = process.data if self.final == "zero" else None
        return Interval(process.first, process.last, closing, self.BEYOND)


class Multistep(Gridded, ClippedSampler):
    """A `Gridded` sampler in log signal-to-noise."""

    order: Literal[1, 2, 3] = Field(2, description="order of the solver: number of estimates per step")
    lower_order_final: bool = Field(True, description="use lower order for the last steps, for stability")

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        return [*spaced(process, "karras", "log_snr", order=2), *spaced(process, order=3)]


def history_names(order: int) -> tuple[str, ...]:
    """Columns of the earlier estimates of a solver of this order."""
    return tuple(f"h{i}" for i in range(1, order))


def log_steps(log_snr: Array, step: int, count: int) -> Array:
    """The sizes in lambda of this step and of the count - 1 before it, newest first."""
    if not np.all(np.isfinite(log_snr[step - count + 1 : step + 2])):
        raise ValueError("a multistep solver of order 2 or more needs 0 < alpha and 0 < sigma: start the path later")
    return np.diff(log_snr)[step - count + 1 : step + 1][::-1]
