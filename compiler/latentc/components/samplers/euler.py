"""Euler's method."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Family, Process
from latentc.components.samplers import tables
from latentc.components.samplers.base import ArraySampler, Spacing, ode_interval, schedule_of, spaced_grid
from latentc.components.samplers.tables import Grid, Table


class Integrator(ArraySampler):
    """A sampler that integrates the probability-flow equation over a grid of times or noise levels."""

    OF_PROCESS: ClassVar[dict[str, Family]] = {"spacing": "diffusion", "karras": "diffusion", "eps": "flow"}
    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {"karras": ("spacing",), "timesteps": ("spacing", "karras")}

    steps: int = Field(
        50, gt=0, le=100_000, description="steps of the integrator (SiT's num_steps counts grid points: one more)"
    )
    spacing: Spacing = Field(
        "even", description="a schedule's timesteps: even, or diffusers' leading, trailing, linspace"
    )
    karras: bool = Field(False, description="Karras noise levels instead of spaced timesteps (EDM, rho 7)")
    eps: float = Field(
        1e-3, ge=0, lt=0.5, description="time kept from the ends of a path where its velocity is singular"
    )

    def stop(self, process: Process) -> float:
        return 1.0 if process.path is None else ode_interval(process, process.path, self.eps)[1]

    def grid(self, process: Process) -> Grid:
        """Where the integrator evaluates, and where it ends."""
        if process.path is not None:
            if self.timesteps is not None:
                return tables.path_grid(process.path, (*self.timesteps, self.stop(process)))
            return tables.flow_grid(process.path, self.steps, *ode_interval(process, process.path, self.eps))
        schedule = schedule_of(process)
        if self.timesteps is not None:
            return tables.discrete_grid(schedule, self.timesteps)
        if self.karras:
            return tables.karras_grid(schedule, self.steps)
        return spaced_grid(schedule, self.steps, self.spacing)


class Euler(Integrator):
    """Euler's method: the flow's velocity over time (SiT), or a diffusion's noise over its level (EDM)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "euler", "steps": 4, "guidance": {"scale": 2.0}}

    kind: Literal["euler"]

    def table(self, process: Process) -> Table:
        return tables.euler(self.grid(process), process.predicts)
