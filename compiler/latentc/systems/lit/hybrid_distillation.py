"""Learning from data and from a teacher at once: the teacher's prediction, and its variance.

Symbols: B batch, C channels; x0 the data, x_t the data noised to time t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, Distillation, unread_problems
from latentc.components.objectives.denoising import noised
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, Var


class HybridDistillation(Distillation):
    """The hybrid objective of LiT (Wang et al. 2025, arXiv:2501.12976, section 4.3).

    The loss of the base objective, plus the weighted squared differences of the student's prediction and variance
    channels from the teacher's at the same x_t, t and conditions.
    """

    kind: Literal["hybrid_distillation"]
    prediction: float = Field(0.5, ge=0, description="weight of the difference between predictions (lambda_1)")
    variance: float = Field(0.05, ge=0, description="weight of the difference between variance channels (lambda_2)")
    DISTILS: ClassVar[bool] = False  # the student learns from data too, and its conditions are dropped as usual
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "hybrid_distillation", "variance": 0.0}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        channels = spec.data.shape[0] if spec.data.shape else 1
        if self.variance and self.base.out_channels(channels) == channels:
            message = "the base objective has no learned variance, so there is none to distil"
            yield Problem(("variance",), message, "set `variance: 0`, or `base.variance: learned_range`")
        yield from unread_problems(self.base, "only the loss of the base objective is used")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        student, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", student.methods["forward"].input("state").type)
        given = conditions.inputs(b, by_field=True)
        at = noised(b, self.parameterization(), x0)
        cond = conditions.dropped(b, conditions.operands(b, given))
        out = call(b, student, "forward", cond, state=at.scaled, time=at.network_time, out="prediction")
        loss = self.base.loss(at, out)["loss"]
        wanted = b.stop_gradient(
            call(b, networks[TEACHER], "forward", cond, state=at.scaled, time=at.network_time, out="taught")
        )
        own, count = int(x0.shape[1]), int(out.shape[1])  # type: ignore[call-overload]
        terms = [("base", loss)]
        parts = [("distilled", self.prediction, 0, own), ("distilled_variance", self.variance, own, count)]
        for name, weight, start, stop in parts:
            if weight and stop > start:
                error = _channels(b, out, start, stop) - _channels(b, wanted, start, stop)
                term = per_sample_mean(b, error * error, out=name)
                terms.append((name, term))
                loss = b.op("add", loss, term * weight, out="loss")
        b.output(loss, *(term for _, term in terms))
        b.finish("The base objective's loss and the differences from the teacher, one value per sample each.")
        draws = (*at.draws, *conditions.drawn(), *conditions.draws())
        names = ("loss", *(name for name, _ in terms))
        return publish(mb, names, ("x", *conditions.fields), draws, self.trained(spec))


def _channels(b: Any, x: Var, start: int, stop: int) -> Var:
    whole = start == 0 and stop == int(x.shape[1])  # type: ignore[call-overload]
    return x if whole else b.slice(x, axis=1, start=start, stop=stop, out="part")
