"""Guidance distillation: one evaluation of the student predicts what two of the teacher do under guidance.

Symbols: B batch, C channels; x_t the data noised to time t, w the guidance scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import not_taken
from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, Distillation, scale_condition, undropped_problems
from latentc.components.objectives.denoising import Noised, noised
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, Var


class GuidanceDistillation(Distillation):
    """The first stage of Meng et al. 2023 (arXiv:2210.03142): the student matches the teacher's guided prediction.

    The target is u + w (c - u), with c the prediction with the conditions and u without. The student takes w through a
    condition of kind `guidance_scale`, drawn per sample, or learns one fixed `scale`.
    """

    kind: Literal["guidance_distillation"]
    scale: float | None = Field(
        None, ge=0, description="fixed guidance scale; null: given by the condition `guidance_scale`"
    )
    channels: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="guide only this many leading channels (3 in the DiT paper's code); null: all",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "guidance_distillation", "scale": 2.0}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        cond = scale_condition(spec)
        if (cond is None) == (self.scale is None):
            what = "the guidance scale is neither fixed nor a condition"
            if cond is not None:
                what = f"`scale` is fixed, but condition `{cond}` also sets the guidance scale"
            mend = "set `objective.scale`, or add `conditioning.guidance: {kind: guidance_scale}`"
            yield Problem(("scale",), what, mend if cond is None else "keep one of the two")
        yield from not_taken(spec, "main", () if cond is None else (cond,), "the objective")
        yield from undropped_problems(spec)
        if self.channels is not None and spec.data.shape and self.channels > spec.data.shape[0]:
            message = f"{self.channels} channels are guided, but the data has {spec.data.shape[0]}"
            yield Problem(("channels",), message, f"use at most {spec.data.shape[0]}, or leave it out for all")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        student, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", student.methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        at = noised(b, self.parameterization(), x0)
        name = scale_condition(spec)
        scale = self.scale if name is None else cond[name]
        target = b.stop_gradient(self._guided(at, networks[TEACHER], conditions, cond, scale))
        out = call(b, student, "forward", cond, state=at.scaled, time=at.network_time, out="prediction")
        error = b.op("sub", out, target, out="error")
        b.output(per_sample_mean(b, error * error, out="loss"))
        b.finish("The squared difference from the teacher's guided prediction, one value per sample.")
        draws = (*at.draws, *conditions.drawn())
        return publish(mb, ("loss",), ("x", *conditions.fields), draws, self.trained(spec))

    def _guided(self, at: Noised, teacher: Network, conditions: Conditions, cond: Operands, w: Any) -> Var:
        """The teacher's guided output; a variance beside the prediction is that under the conditions."""
        b, x, roles = at.b, at.scaled, {"state": at.scaled, "time": at.network_time}
        given = call(b, teacher, "forward", cond, out="given", **roles)
        without = call(b, teacher, "forward", conditions.null(b, cond), out="without", **roles)
        column = b.reshape(w, shape=(w.shape[0], *[1] * (x.type.rank - 1)), out="w") if isinstance(w, Var) else w
        count, guided = int(given.shape[1]), self.channels or int(x.shape[1])  # type: ignore[call-overload]
        rest: tuple[Var, ...] = ()
        if guided != count:
            given, *rest_ = b.split(given, axis=1, sizes=(guided, count - guided), out="given rest")
            without, rest = b.slice(without, axis=1, start=0, stop=guided, out="without"), tuple(rest_)
        made = b.op("add", without, column * (given - without), out="guided")
        return b.concat(made, *rest, axis=1, out="guided") if rest else made
