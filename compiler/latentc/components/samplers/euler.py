"""Euler's method."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers import ode
from latentc.components.samplers.base import spaced
from latentc.components.samplers.ddim import ddim_step
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import Table


class Euler(ode.Integrator):
    """Euler's method: integrates a flow's velocity over time (SiT), or the noise over its level (EDM)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "euler", "steps": 4, "guidance": {"scale": 2.0}}

    kind: Literal["euler"]

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        # over the noise level, Euler steps are DDIM steps
        return spaced(process) if process.DEFAULTS.over == "time" else []

    def write(self, script: Script) -> None:
        noisy = self.write_starts(script)
        variable = self.variable(script.target)
        if variable == ode.LEVEL and not noisy:
            step = script.function(ddim_step, eta=0.0, stochastic=False, noise_of_clipped=True)
            script.loop(f"{script.evaluation('x0')}(start)", f"{step}(alpha, sigma)")
            return
        more = [name for name in ("y_x", "noise") if noisy and (name == "noise" or not script.constant_alpha)]
        noise = [f"{{{', '.join(f'{chr(34)}{name}{chr(34)}: {name}' for name in more)}}}"] if more else []
        if variable.over == "time":
            script.loop(f"{script.evaluation('flow_velocity')}(start)", '{"d": end - start}', *noise)
            return
        terms = (self.equation_text(script, "start"), self.equation_text(script, "end"))
        step = f"{script.function(ode.euler_step)}({', '.join(terms)})"
        script.loop(f"{script.evaluation('x0')}(start)", step, *noise)

    def table(self, target: Parameterization) -> Table:
        return ode.euler(self.grid(target), target.predicts, self.variable(target), self.churn)
