"""DDIM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Process
from latentc.components.samplers import tables
from latentc.components.samplers.base import Respaced
from latentc.components.samplers.tables import Table


class Ddim(Respaced):
    """Denoising diffusion implicit models (Song et al. 2021)."""

    PROCESSES = ("diffusion",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ddim", "steps": 4, "guidance": {"scale": 2.0, "channels": 1}}

    kind: Literal["ddim"]
    eta: float = Field(0.0, ge=0, le=1, description="share of DDPM's noise: 0 none (deterministic), 1 all of it")

    def table(self, process: Process) -> Table:
        return tables.ddim(self.grid(process), process.predicts, self.eta, self.clip)
