"""DEIS."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Process
from latentc.components.samplers import tables
from latentc.components.samplers.dpm_solver_pp import Gridded
from latentc.components.samplers.tables import Table
from latentc.components.samplers.tables.adams import Variable


class Deis(Gridded):
    """DEIS, an exponential Adams-Bashforth integrator of the noise (Zhang and Chen 2023, arXiv:2204.13902)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "deis", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["deis"]
    order: Literal[1, 2, 3, 4] = Field(3, description="of the solver: how many estimates a step uses")
    polynomial: Variable = Field("log_rho", description="in sigma / alpha (rho), or in its logarithm")

    def table(self, process: Process) -> Table:
        return tables.deis(self.grid(process), process.predicts, self.order, self.polynomial)
