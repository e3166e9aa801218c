"""PLMS as iPNDM starts it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Process
from latentc.components.samplers import tables
from latentc.components.samplers.dpm_solver_pp import Gridded
from latentc.components.samplers.tables import Table


class Ipndm(Gridded):
    """PLMS, the linear multistep pseudo-numerical method (PNDM, Liu et al. 2022), one evaluation in every step: the
    first are of lower order (iPNDM, Zhang and Chen 2023)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ipndm", "steps": 6, "guidance": {"scale": 2.0}}

    kind: Literal["ipndm"]
    order: Literal[1, 2, 3, 4] = Field(4, description="of the solver: how many estimates a step uses")

    def table(self, process: Process) -> Table:
        return tables.ipndm(self.grid(process), process.predicts, self.order)
