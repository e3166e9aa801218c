"""The losses of score SDEs: half a sum, and weighted so that they bound the likelihood.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.kit import per_sample_mean
from latentc.components.objectives.denoising import Noised, Terms
from latentc.components.objectives.diffusion import Diffusion
from latentc.components.parts import Problem, Spec
from latentc.components.processes.sde import Preserving
from latentc.ir.builder import Builder, Var


class ScoreMatching(Diffusion):
    """`diffusion` with the reductions and weightings of Song et al. 2021 (arXiv:2011.13456, arXiv:2101.09258)."""

    kind: Literal["score_matching"]  # type: ignore[assignment]
    weighting: Literal["none", "likelihood"] = Field(
        "none",
        description="weighting of the squared error: as given by the prediction, or that of the score times g^2, "
        "where g is the SDE's diffusion, which bounds the likelihood",
    )
    reduction: Literal["mean", "half_sum"] = Field(
        "half_sum",
        description="the loss of a sample is the mean over its elements, or half their sum (`reduce_mean: False` of "
        "the authors)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**Diffusion.EXAMPLE, "kind": "score_matching"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.reduction == "half_sum" and self.learns_variance:
            message = "`reduction: half_sum` needs a plain squared or absolute error"
            yield Problem(("reduction",), message, "leave out `variance`, or use `mean`")
        if self.weighting == "none":
            return
        if self.process.point(self.process.first).d_sigma is None:
            message = f"this weighting needs a process in continuous time, but `{self.process.kind}` has time steps"
            yield Problem(("weighting",), message, "use the process `vp`, `sub_vp` or `ve`")
        if self.error_norm != "l2" or self.learns_variance:
            message = "the weighted loss bounds the likelihood only for a plain squared error"
            yield Problem(("weighting",), message, "leave out `error_norm` and `variance`")

    def says(self) -> str:
        if self.weighting == "likelihood":
            error = "mean squared error" if self.reduction == "mean" else "halved sum of squared errors"
            return f"The {error} of the score under likelihood weighting, one value per sample."
        if self.reduction == "half_sum":
            error = "squared" if self.error_norm == "l2" else "absolute"
            return f"Half the sum of the {error} errors of the prediction, one value per sample."
        return super().says()

    def loss(self, at: Noised, prediction: Var) -> Terms:
        if self.weighting == "none":
            if self.reduction == "mean":
                return super().loss(at, prediction)
            return self._reduced(at.b, self.cost(at.b, at.error(prediction)))
        b, error, point = at.b, at.error(prediction), at.point
        (u, w), (d_alpha, d_sigma) = at.functional, at.derivatives
        if not isinstance(u, float) or u:  # as an error of the noise, of which the others' are multiples
            still = isinstance(point.alpha, float) and point.alpha == 1.0
            error = b.div(error, w - u * (point.sigma if still else point.sigma / point.alpha), out="error")
        weight = self.process.importance if isinstance(self.process, Preserving) else None
        if weight is None:  # g^2 / sigma^2 is the growth of log(sigma^2 / alpha^2)
            growth, fading = d_sigma / point.sigma, d_alpha / point.alpha
            growth = b.op("sub", growth, fading, out="growth") if isinstance(fading, Var) else growth
            weight = b.op("mul", 2.0, growth, out="weight")
        return self._reduced(b, error * error * weight)

    def _reduced(self, b: Builder, cost: Var) -> Terms:
        if self.reduction == "mean":
            return {"loss": per_sample_mean(b, cost, out="loss")}
        total = b.sum(cost, axes=tuple(range(1, cost.type.rank)), keepdims=False)
        return {"loss": b.mul(total, 0.5, out="loss")}
