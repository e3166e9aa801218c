"""DEIS."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.processes.process import Parameterization
from latentc.components.samplers import adams
from latentc.components.samplers.multistep import Gridded
from latentc.components.samplers.table import Table


class Deis(Gridded):
    """DEIS, an exponential Adams-Bashforth integrator of the noise (Zhang and Chen 2023, arXiv:2204.13902)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "deis", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["deis"]
    order: Literal[1, 2, 3, 4] = Field(3, description="order of the solver: number of estimates per step")
    polynomial: adams.Variable = Field("log_rho", description="polynomials in sigma / alpha (rho), or in its logarithm")

    def table(self, target: Parameterization) -> Table:
        return adams.deis(self.grid(target), target.predicts, self.order, self.polynomial)
