"""Ancestral sampling whose states are clipped, as DiffWave samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.processes.process import Parameterization
from latentc.components.samplers.ddpm import Ddpm
from latentc.components.samplers.table import Step, Table
from latentc.ir.builder import Builder, Var


class ClippedDdpm(Ddpm):
    """`ddpm` with a bound on the state after every step (Kong et al. 2021, arXiv:2009.09761)."""

    kind: Literal["clipped_ddpm"]  # type: ignore[assignment]
    clip_state: float = Field(1.0, gt=0, description="bound on the state after every step, in units of the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {**Ddpm.EXAMPLE, "kind": "clipped_ddpm"}

    def table(self, target: Parameterization) -> Table:
        table = super().table(target)

        def clipped(b: Builder, step: Step) -> tuple[Var, ...]:
            x, *others = table.body.step(b, step)
            return b.clamp(x, low=-self.clip_state, high=self.clip_state, out="x"), *others

        return replace(table, body=replace(table.body, step=clipped))
