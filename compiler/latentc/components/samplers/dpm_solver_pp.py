"""DPM-Solver++."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Family, Process
from latentc.components.samplers import tables
from latentc.components.samplers.base import ArraySampler, Final, schedule_of
from latentc.components.samplers.tables import Grid, Table
from latentc.components.samplers.tables.grids import Spacing


class Gridded(ArraySampler):
    """A sampler that reuses the estimates of earlier steps, one evaluation a step, on a grid of spaced timesteps,
    Karras noise levels or even times."""

    OF_PROCESS: ClassVar[dict[str, Family]] = {"spacing": "diffusion", "karras": "diffusion", "eps": "flow"}
    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {"karras": ("spacing",), "timesteps": ("spacing", "karras")}

    steps: int = Field(20, gt=0, le=100_000, description="steps, each one network evaluation")
    spacing: Spacing = Field("linspace", description="a schedule's timesteps, spaced as diffusers does")
    karras: bool = Field(False, description="Karras noise levels instead of spaced timesteps (rho 7)")
    final: Final = Field("zero", description="where the last step ends: at the data, or at the lowest noise level")
    eps: float = Field(
        1e-3, gt=0, lt=0.5, description="time kept from a path's noise end (and with sigma_min, from the data)"
    )

    def stop(self, process: Process) -> float:
        return 1.0 if self.final == "zero" else 1.0 - self.eps

    def grid(self, process: Process) -> Grid:
        """Where the solver evaluates, and where it ends."""
        if process.path is not None:
            if self.timesteps is not None:
                return tables.path_grid(process.path, (*self.timesteps, self.stop(process)))
            start = self.eps if process.path.alpha(0.0) == 0.0 else 0.0  # log(alpha) must be finite
            return tables.flow_grid(process.path, self.steps, start, self.stop(process))
        schedule = schedule_of(process)
        if self.timesteps is not None:
            return tables.discrete_grid(schedule, self.timesteps, self.final)
        if self.karras:
            return tables.karras_grid(schedule, self.steps, self.final)
        chosen = tables.spaced(schedule.steps, self.steps, self.spacing, destination=True)
        return tables.discrete_grid(schedule, chosen, self.final)


class Multistep(Gridded):
    """A `Gridded` sampler in log signal-to-noise."""

    order: Literal[1, 2, 3] = Field(2, description="of the solver: how many estimates a step uses")
    lower_order_final: bool = Field(True, description="end with steps of lower order, which is steadier")
    clip: float | None = Field(
        None, gt=0, description="bound of the estimated data, in its units (1 for pixels in -1…1); null: none"
    )


class DpmSolverPp(Multistep):
    """DPM-Solver++ multistep (Lu et al. 2022): 2M at order 2, 3M at order 3."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "dpm_solver_pp",
        "steps": 5,
        "guidance": {"scale": 2.0, "interval": [0.2, 0.7]},
    }

    kind: Literal["dpm_solver_pp"]
    solver_type: Literal["midpoint", "heun"] = Field("midpoint", description="variant of the second order")

    def table(self, process: Process) -> Table:
        grid = self.grid(process)
        return tables.dpm_solver_pp(
            grid, process.predicts, self.order, self.solver_type, self.lower_order_final, self.clip
        )
