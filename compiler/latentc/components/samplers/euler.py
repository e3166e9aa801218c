"""Euler's method."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers import ode
from latentc.components.samplers.base import spaced
from latentc.components.samplers.table import Table


class Euler(ode.Integrator):
    """Euler's method: integrates a flow's velocity over time (SiT), or the noise over its level (EDM)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "euler", "steps": 4, "guidance": {"scale": 2.0}}

    kind: Literal["euler"]

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        # over the noise level, Euler steps are DDIM steps
        return spaced(process) if process.ODE == "time" else []

    def table(self, target: Parameterization) -> Table:
        return ode.euler(self.grid(target), target.predicts, self.variable(target), self.churn)
