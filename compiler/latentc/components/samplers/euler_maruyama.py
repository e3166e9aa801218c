"""Stochastic samplers of flows."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.process import Process
from latentc.components.samplers import tables
from latentc.components.samplers.base import ArraySampler, path_of
from latentc.components.samplers.tables import Table
from latentc.components.samplers.tables.sde import Form, LastStep
from latentc.components.schedules import Path


class Stochastic(ArraySampler):
    """A sampler of SiT's reverse-time SDE (Ma et al. 2024, equation 5): noisy steps, then one without."""

    PROCESSES = ("flow",)
    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {"timesteps": ("last_size",)}
    HEUN: ClassVar[bool] = False

    steps: int = Field(
        250, gt=1, le=100_000, description="updates, the last one (which takes no noise) included: SiT's num_steps"
    )
    diffusion: Form = Field("sigma", description="how much noise when: SiT's diffusion form")
    norm: float = Field(1.0, gt=0, description="scale of the diffusion")
    last: LastStep = Field(
        "mean",
        description="the update without noise: by the drift (mean), the velocity (euler), to the expected "
        "data (tweedie), or none",
    )
    last_size: float = Field(
        0.04, gt=0, lt=1, description="time the last update bridges; with timesteps, from the last of them to 1"
    )
    eps: float = Field(1e-3, ge=0, lt=0.5, description="time kept from the ends of a path where the drift is singular")

    def table(self, process: Process) -> Table:
        path = path_of(process)
        start, stop = self.interval(process, path)
        noisy = self.steps if self.last == "none" else self.steps - 1
        if noisy < 1:
            raise ValueError("a stochastic sampler takes at least one step before its last one")
        size = self.last_size
        if self.timesteps is None:
            grid = tables.flow_grid(path, noisy, start, stop)
        elif self.last == "none":
            grid = tables.path_grid(path, (*self.timesteps, stop))
        else:
            grid, size = tables.path_grid(path, self.timesteps), 1.0 - self.timesteps[-1]
        return tables.euler_maruyama(
            grid, path, process.predicts, self.diffusion, self.norm, self.last, size, heun=self.HEUN
        )

    def stop(self, process: Process) -> float:
        return 1.0 if self.last != "none" else self.interval(process, path_of(process))[1]

    def interval(self, process: Process, path: Path) -> tuple[float, float]:
        """Times (start, stop) of the noisy steps (SiT's `check_interval`).

        Differs from SiT where that is not finite: `sbdm` starts at eps also with a velocity, and Heun's steps
        end before the data where no last update follows.
        """
        velocity = process.predicts == "flow_velocity" and path.kind != "vp"
        start = 0.0 if path.kind == "vp" or (velocity and self.diffusion != "sbdm") else self.eps
        if self.last != "none":
            return start, 1.0 - self.last_size
        return start, 1.0 if velocity and not self.HEUN else 1.0 - self.eps


class EulerMaruyama(Stochastic):
    """The Euler-Maruyama method: one evaluation and one noise a step."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "euler_maruyama", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["euler_maruyama"]
