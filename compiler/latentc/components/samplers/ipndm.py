"""PLMS as iPNDM starts it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.processes.process import Parameterization
from latentc.components.samplers import adams
from latentc.components.samplers.multistep import Gridded
from latentc.components.samplers.table import Table


class Ipndm(Gridded):
    """PLMS, the linear multistep pseudo-numerical method (PNDM, Liu et al. 2022), with one evaluation per step: the
    first steps have lower order (iPNDM, Zhang and Chen 2023).
    """

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ipndm", "steps": 6, "guidance": {"scale": 2.0}}

    kind: Literal["ipndm"]
    order: Literal[1, 2, 3, 4] = Field(4, description="order of the solver: number of estimates per step")

    def table(self, target: Parameterization) -> Table:
        return adams.ipndm(self.grid(target), target.predicts, self.order)
