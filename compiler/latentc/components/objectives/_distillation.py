"""Shared by objectives that learn from a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.backbone import Backbone
from latentc.components.conditions.guidance_scale import GuidanceScale
from latentc.components.contract import Need
from latentc.components.objective import Objective
from latentc.components.objectives.denoising import DenoisingObjective
from latentc.components.objectives.diffusion import Diffusion
from latentc.components.objectives.flow import Flow
from latentc.components.parts import Problem, Spec
from latentc.components.processes.process import Parameterization

TEACHER = "teacher"
"""Name of the network that `main` learns from."""


class Distillation(Objective):
    """Teaches `main` the predictions of the frozen network `teacher`, as its objective parameterizes them."""

    base: Annotated[DenoisingObjective, OneOfThese("objectives", classes=(Diffusion, Flow))] = Field(
        Diffusion(kind="diffusion"), description="the diffusion or flow objective that the teacher was trained with"
    )
    DISTILS: ClassVar[bool] = True
    NORMAL: ClassVar[bool] = False
    """Whether its losses draw standard normals for the noise of any process."""

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "denoise"), Need(TEACHER, "denoise")

    def parameterization(self) -> Parameterization:
        return self.base.parameterization()

    def out_channels(self, channels: int) -> int:
        return self.base.out_channels(channels)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = self.parameterization()
        if target.coupling is not None:
            message = "students are trained on paths that start from noise, but this coupling starts elsewhere"
            yield Problem(("base", "coupling"), message, "leave it out")
        elif self.NORMAL:
            yield from target.noise_problems(spec, f"objective `{self.kind}`")
        yield from teacher_problems(spec)


def scale_condition(spec: Spec) -> str | None:
    """The name of the condition that provides the guidance scale."""
    return next((name for name, c in spec.conditions.items() if isinstance(c, GuidanceScale)), None)


def unread_problems(base: DenoisingObjective, why: str) -> Iterator[Problem]:
    """Terms of a base objective of which only the process and the prediction count; paths relative to its owner."""
    for name in ("further", "self_conditioning", "sample_weight"):
        if getattr(base, name):
            yield Problem(("base", name), f"{why}, so its `{name}` has no effect", "leave it out")


def undropped_problems(spec: Spec, *path: str) -> Iterator[Problem]:
    """Guidance, set at `path`, by a teacher that was never trained without its conditions."""
    if not any(condition.nullable for condition in spec.conditions.values()):
        message = "guidance needs a teacher that was trained with dropped conditions, but no condition is ever dropped"
        yield Problem(path, message, "set the `dropout` of a condition to the value that the teacher was trained with")


def teacher_problems(spec: Spec) -> Iterator[Problem]:
    """A teacher without weights, or one that is trained."""
    teacher = spec.networks.get(TEACHER)
    if isinstance(teacher, Backbone) and (teacher.pretrained is None or teacher.trainable):
        message = f"network `{TEACHER}` needs trained weights, but its `pretrained` names no file"
        if teacher.pretrained is not None:
            message = f"network `{TEACHER}` must be frozen"
        mend = (
            f"train the teacher, then name its checkpoint in `networks.{TEACHER}.pretrained`; `frozen` "
            "is then true by default"
        )
        yield Problem((), message, mend)
