"""UniPC."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Process
from latentc.components.samplers import tables
from latentc.components.samplers.dpm_solver_pp import Multistep
from latentc.components.samplers.tables import Table


class Unipc(Multistep):
    """UniPC multistep, a predictor with a corrector that costs no evaluation (Zhao et al. 2023)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "unipc",
        "steps": 5,
        "order": 3,
        "guidance": {"scale": 2.0, "interval": [0.2, 0.7]},
    }

    kind: Literal["unipc"]
    b_function: Literal["bh1", "bh2"] = Field("bh2", description="the paper's B(h): h (bh1) or exp(h) - 1 (bh2)")
    predict_x0: bool = Field(True, description="extrapolate the data; false: the noise, ending at sigma_min")
    corrector: bool = Field(True, description="correct each state once its evaluation is known")

    def table(self, process: Process) -> Table:
        return tables.unipc(
            self.grid(process),
            process.predicts,
            self.order,
            self.b_function,
            self.predict_x0,
            self.lower_order_final,
            self.corrector,
            self.clip,
        )
