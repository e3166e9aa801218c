"""Heun's method."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Applies
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers import ode
from latentc.components.samplers.base import spaced
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import Table


class Heun(ode.Integrator):
    """Heun's method, the explicit trapezoid, with two network evaluations per step: SiT's heun; with `churn` EDM's
    stochastic sampler (Karras et al. 2022, algorithm 2)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "heun",
        "steps": 4,
        "guidance": {"scale": 2.0, "interval": [0.3, 0.8]},
    }

    APPLIES: ClassVar[Applies] = {"guided": ("guidance", None)}

    kind: Literal["heun"]
    last: Literal["heun", "euler"] = Field(
        "heun", description="last step over a path's time: Heun, or Euler, which saves an evaluation (REPA)"
    )

    guided: Literal["evaluations", "steps"] = Field(
        "evaluations",
        description="progress used for guidance: that of each evaluation, or of the step's start for both (REPA)",
    )

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        return spaced(process, "karras")

    def write(self, script: Script) -> None:
        noisy = self.write_starts(script)
        over_time = self.variable(script.target).over == "time"
        evaluated = script.evaluation("flow_velocity" if over_time else "x0")
        if over_time:
            plain = self.grid(script.target).ends_at_data or self.last == "euler"
            step = '{"d": end - start, "d_2": (end - start) / 2, "e_2": (end - start) / 2}'
        else:
            plain = self.grid(script.target).sigma[-1] == 0.0
            terms = (self.equation_text(script, "start"), self.equation_text(script, "end"))
            step = f"{script.function(ode.heun_step)}({', '.join(terms)})"
        noise = [name for name in ("y_x", "noise") if noisy and (name == "noise" or not script.constant_alpha)]
        if plain:
            script.line(f"last = {evaluated}(start[-1:])")
            if over_time:
                script.line('last["d"] = end[-1:] - start[-1:]')
            elif self.variable(script.target) != ode.LEVEL:
                terms = (self.equation_text(script, "start[-1:]"), self.equation_text(script, "end[-1:]"))
                script.line(f"last |= {script.function(ode.euler_step)}({', '.join(terms)})")
            script.lines += [f'last["{name}"] = {name}[-1:]' for name in noise]
            script.line("start, end = start[:-1], end[:-1]")
            script.lines += [f"{name} = {name}[:-1]" for name in noise]
        more = [f"{{{', '.join(f'{chr(34)}{name}{chr(34)}: {name}' for name in noise)}}}"] if noise else []
        script.loop(f"{evaluated}(start)", script.second(f"{evaluated}(end)"), step, *more)
        if plain:
            script.loop("last")

    def table(self, target: Parameterization) -> Table:
        table = ode.heun(self.grid(target), target.predicts, self.variable(target), self.churn, self.last)
        return table.guided_by_steps() if self.guided == "steps" else table
