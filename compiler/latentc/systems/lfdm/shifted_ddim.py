"""DDIM between the noise levels before those of the timesteps, as LFDM's code steps.

Symbols: T timesteps, S steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from latentc.components.formula_source import NoSourceError
from latentc.components.parts import Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.base import parameterization_of
from latentc.components.samplers.ddim import UNCLIPPED_NOISE, Ddim
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Table


class ShiftedDdim(Ddim):
    """DDIM whose steps lead to the noise level before that of each timestep, the last to the data.

    By default the network is evaluated at T i / (S + 1), rounded down, for i from S to 1.
    """

    kind: Literal["shifted_ddim"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "shifted_ddim", "steps": 3, "eta": 1.0, "clip": 1.0}

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        return []  # it samples what was trained on steps of this form

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is not None and not isinstance(target.process, Discrete):
            message = f"`{self.kind}` needs a discrete schedule, but the process is `{target.process.kind}`"
            yield Problem(("kind",), message, "use `ddim`")
            return
        yield from super().problems(spec)

    def grid(self, target: Parameterization) -> Grid:
        process = target.process
        if self.timesteps is not None or self.respacing is not None or self.spacing is not None:
            return super().grid(target)
        if not isinstance(process, Discrete):
            raise ValueError(f"`{self.kind}` needs a discrete schedule, but `{process.kind}` has none")
        if self.steps >= process.steps:
            raise ValueError(f"{self.steps} steps need a schedule of more than {self.steps} timesteps")
        times = np.floor(np.linspace(0.0, process.steps, self.steps + 2)[1:-1])[::-1]
        return Grid(process, np.append(times, process.data))

    def table(self, target: Parameterization) -> Table:
        grid, process = self.grid(target), target.process
        if not isinstance(process, Discrete) or np.any(grid.times % 1):
            raise ValueError(f"`{self.kind}` needs whole timesteps of a discrete schedule")
        before, at = np.append(1.0, process.alphas_cumprod), np.maximum(grid.times, 0.0).astype(np.int64)
        raw = self.bound is not None and not self.noise_of_clipped
        columns = grid.evaluation(target.predicts, "x0")
        columns |= shifted_step(before[at], grid.alpha[:-1], grid.sigma[:-1], self.eta, raw)
        return Table(self.kind, UNCLIPPED_NOISE if raw else LINEAR, columns, clip=self.bound, prior=grid.prior)

    def write(self, script: Script) -> None:
        raise NoSourceError("steps between other levels than those of the timesteps have no formulas")


def shifted_step(before: Array, alpha: Array, sigma: Array, eta: float, raw: bool) -> dict[str, Array]:
    """Coefficients of x, of the data (d) and of new noise, with `eta` of DDPM's, at alphas and sigmas f64[S].

    `before`: alpha^2 f64[S + 1] of the levels between which steps lead. The noise that remains is direction / sigma *
    (x - alpha d), of the clipped data or, if `raw`, of the data as predicted.
    """
    start, stop = before[:-1], before[1:]
    noise = eta * np.sqrt((1 - start / stop) * (1 - stop) / (1 - start))
    direction = np.sqrt(np.maximum(1 - stop - noise**2, 0.0))
    columns = {"x": direction / sigma, "d": np.sqrt(stop)}
    if raw:
        columns["unclipped"] = -direction * alpha / sigma
    else:
        columns["d"] = columns["d"] - direction * alpha / sigma
    return columns | ({"noise": noise} if eta else {})
