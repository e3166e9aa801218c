"""Gradient descent with Nesterov's momentum on what a network has learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Array
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.samplers.script import Script
from latentc.components.samplers.table import LINEAR, Table


class GradientDescent(ArraySampler):
    """Steps of one size along the prediction (EqM, Wang and Du 2025, arXiv:2510.02300, algorithms 1 and 2).

    With momentum, the state of the loop is the point at which the gradient is taken, x + size momentum d, d the
    gradient of the step before; the last step ends at x.
    """

    kind: Literal["gradient_descent"]
    steps: int = Field(249, gt=0, le=100_000, description="number of steps, with one network evaluation each")
    size: float = Field(0.0017, gt=0, le=1_000, description="factor of the gradient in a step")
    momentum: float = Field(0.0, ge=0, lt=1, description="share of the last step by which the gradient is taken ahead")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "gradient_descent",
        "steps": 4,
        "size": 0.1,
        "momentum": 0.3,
        "guidance": {"scale": 2.0},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is not None and target.predicts != "flow_velocity":
            message = f"`{self.kind}` follows a velocity, but the network predicts `{target.predicts}`"
            yield Problem(("kind",), message, "use the objective `equilibrium_matching`, or another sampler")
            return
        yield from super().problems(spec)

    def table(self, target: Parameterization) -> Table:
        grid = self.grid(target)
        columns = grid.evaluation(target.predicts, "flow_velocity")
        steps = descent_steps(self.steps, self.size, self.momentum)
        return Table("gradient_descent", LINEAR, {**columns, **steps}, history=1, prior=grid.prior)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        size, momentum = script.argument("size", self.size), script.argument("momentum", self.momentum)
        steps = f"{script.function(descent_steps)}(len(t) - 1, {size}, {momentum})"
        script.loop(f"{script.evaluation('flow_velocity')}(t[:-1])", steps)


def descent_steps(count: int, size: float, momentum: float) -> dict[str, Array]:
    """Coefficients of the state, of the gradient (d) and of that of the step before (h1)."""
    ahead = size * (1.0 + momentum) * np.ones(count)
    ahead[-1] = size
    return {"x": np.ones(count), "d": ahead, "h1": -size * momentum * np.ones(count)}
