"""Consistency distillation: a teacher's solver leads from one state of a trajectory to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.kit import Conditions, Operands
from latentc.components.objectives._distillation import TEACHER, scale_condition, teacher_problems, undropped_problems
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Array
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var
from latentc.systems.consistency.consistency_loss import ConsistencyObjective, Pairs, predicted


class ConsistencyDistillation(ConsistencyObjective):
    """Learns the ends of a trained denoiser's trajectories (Song et al. 2023, arXiv:2303.01469, algorithm 2; latent
    consistency models, Luo et al. 2023, arXiv:2310.04378). The frozen network `teacher` computes the less noisy
    state by a step of its probability-flow ODE, under guidance.
    """

    kind: Literal["consistency_distillation"]
    solver: Literal["euler", "heun"] = Field(
        "euler", description="the teacher's step in noise level: first order (DDIM) or second"
    )
    scale: float = Field(
        1.0, ge=0, description="guidance scale of the teacher, unless a condition `guidance_scale` provides it; 1: none"
    )
    DISTILS: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "consistency_distillation", "solver": "heun", "steps": 8}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return *super().needs(spec), Need(TEACHER, "denoise")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from teacher_problems(spec)
        cond = scale_condition(spec)
        if cond is not None and self.scale != 1.0:
            yield Problem(
                ("scale",),
                f"`scale` is fixed, but condition `{cond}` also sets the guidance scale",
                "keep one of the two",
            )
        if cond is not None or self.scale != 1.0:
            yield from undropped_problems(spec, "scale")

    def columns(self, steps: int) -> dict[str, Array]:
        found = super().columns(steps)
        alpha, sigma, alpha_s, sigma_s = (found[n] for n in ("alpha", "sigma", "alpha_s", "sigma_s"))
        of_x, of_data = sigma_s / sigma, alpha_s - alpha * sigma_s / sigma
        found |= {"euler_x": of_x + of_data * found["data_x"], "euler_out": of_data * found["data_out"]}
        if self.solver == "heun":
            if not np.all(alpha):
                raise ValueError("Heun's method cannot start at an infinite noise level")
            ratio = (sigma_s / alpha_s) / (sigma / alpha)
            first, second = (ratio - 1.0) / 2.0, (1.0 - 1.0 / ratio) / 2.0
            found["heun_x"] = (1.0 + first) * alpha_s / alpha - first * alpha_s * found["data_x"]
            found["heun_out"] = -first * alpha_s * found["data_out"]
            found["heun_x_s"] = second * (1.0 - alpha_s * found["data_x_s"])
            found["heun_out_s"] = -second * alpha_s * found["data_out_s"]
        return found

    def nearer(
        self, b: Builder, at: Pairs, networks: Mapping[str, Network], conditions: Conditions, cond: Operands,
        x0: Var, noise: Var, x_t: Var,
    ) -> Var:  # fmt: skip
        name = scale_condition(conditions.spec)
        scale: Any = self.scale if name is None else at.m.column(cond[name], "scale")

        def taught(x: Var, mark: str, out: str) -> Var:
            given = predicted(b, at, networks[TEACHER], cond, x, mark, out)
            if isinstance(scale, float) and scale == 1.0:
                return given
            without = predicted(b, at, networks[TEACHER], conditions.null(b, cond), x, mark, "without")
            return b.op("add", without, scale * (given - without), out=f"guided_{out}")

        first = taught(x_t, "", "first")
        x_s = weighted_sum(b, "x_s", (at("euler_x"), x_t), (at("euler_out"), first))
        if self.solver == "euler":
            return x_s
        second = taught(x_s, "_s", "second")
        terms = (("heun_x", x_t), ("heun_out", first), ("heun_x_s", x_s), ("heun_out_s", second))
        return weighted_sum(b, "x_s", *((at(key), value) for key, value in terms))
