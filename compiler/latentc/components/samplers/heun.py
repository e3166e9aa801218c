"""Heun's method."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.process import Process
from latentc.components.samplers import tables
from latentc.components.samplers.euler import Integrator
from latentc.components.samplers.tables import Table


class Heun(Integrator):
    """Heun's method, the explicit trapezoid: two network evaluations a step (SiT's heun; EDM, Karras et al.
    2022)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "heun",
        "steps": 4,
        "guidance": {"scale": 2.0, "interval": [0.3, 0.8]},
    }

    kind: Literal["heun"]

    def table(self, process: Process) -> Table:
        return tables.heun(self.grid(process), process.predicts)
