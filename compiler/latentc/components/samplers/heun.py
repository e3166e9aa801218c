"""Heun's method."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Applies
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers import ode
from latentc.components.samplers.base import spaced
from latentc.components.samplers.table import Table


class Heun(ode.Integrator):
    """Heun's method, the explicit trapezoid, with two network evaluations per step: SiT's heun; with `churn` EDM's
    stochastic sampler (Karras et al. 2022, algorithm 2)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "heun",
        "steps": 4,
        "guidance": {"scale": 2.0, "interval": [0.3, 0.8]},
    }

    APPLIES: ClassVar[Applies] = {"guided": ("guidance", None)}

    kind: Literal["heun"]
    last: Literal["heun", "euler"] = Field(
        "heun", description="last step over a path's time: Heun, or Euler, which saves an evaluation (REPA)"
    )

    guided: Literal["evaluations", "steps"] = Field(
        "evaluations",
        description="progress used for guidance: that of each evaluation, or of the step's start for both (REPA)",
    )

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        return spaced(process, "karras")

    def table(self, target: Parameterization) -> Table:
        table = ode.heun(self.grid(target), target.predicts, self.variable(target), self.churn, self.last)
        return table.guided_by_steps() if self.guided == "steps" else table
