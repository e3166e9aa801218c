"""DDPM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Process, Variance
from latentc.components.samplers import tables
from latentc.components.samplers.base import Respaced
from latentc.components.samplers.tables import Table


class Ddpm(Respaced):
    """Ancestral sampling (Ho et al. 2020), on fewer timesteps as improved DDPM (Nichol and Dhariwal 2021)."""

    PROCESSES = ("diffusion",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ddpm", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["ddpm"]
    steps: int = Field(250, gt=0, le=100_000, description="timesteps of the chain")
    variance: Variance | None = Field(
        None,
        description="of a step: the posterior's (fixed_small), beta (fixed_large), the network's; null: the "
        "objective's",
    )

    def table(self, process: Process) -> Table:
        variance = self.variance or process.variance
        if variance == "learned_range" and process.variance != "learned_range":
            raise ValueError("the objective learns no variance: choose fixed_small or fixed_large")
        return tables.ddpm(self.grid(process), process.predicts, variance, self.clip)
