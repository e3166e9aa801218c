"""Prediction of the data, with the squared error of the velocity that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.kit import per_sample_mean
from latentc.components.objectives.denoising import DenoisingObjective, Noised, Terms
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.process import Parameterization, Process
from latentc.ir.builder import Var
from latentc.systems.jit.clamped_path import ClampedPath


class CleanFlow(DenoisingObjective):
    """Mean squared error of the velocity (F - x) / max(1 - t, `least`) of predicted data F (Li and He 2025)."""

    kind: Literal["clean_flow"]
    process: Annotated[Process, OneOf("processes")] = Field(
        ClampedPath(kind="clamped_path"), description="a `clamped_path` from noise to data"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "clean_flow", "process": ClampedPath.EXAMPLE}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(self.process, ClampedPath):
            message = f"`{self.kind}` needs the process `clamped_path`, not `{self.process.kind}`"
            yield Problem(("process",), message, "use `clamped_path`, or the objective `flow` with `predicts: x0`")
            return
        yield from super().problems(spec)

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "preconditioned")

    def says(self) -> str:
        return "The mean squared error of the velocity, one value per sample."

    def loss(self, at: Noised, prediction: Var) -> Terms:
        assert isinstance(self.process, ClampedPath)
        divisor = self.process.preconditioning.divisor(Symbolic(at.b, at.x0.type.rank), at.column)
        error = at.b.div(at.b.op("sub", prediction, at.x0, out="error"), divisor, out="error")
        return {"loss": per_sample_mean(at.b, error * error, out="loss")}
