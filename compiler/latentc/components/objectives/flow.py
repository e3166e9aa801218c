"""Flow matching along a path, with the predictions and weightings of SiT.

Symbols: B batch; x1 the data, x0 the noise in the papers; here x_t = alpha(t) x0 + sigma(t) noise with x0 the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOf
from latentc.components.coupling import Coupling
from latentc.components.kit import per_sample_mean
from latentc.components.objectives.denoising import DenoisingLoss, DenoisingObjective, Noised, Terms
from latentc.components.parts import Applies, Problem, Spec
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.prediction import Prediction
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.base import ArraySampler
from latentc.ir.builder import Var

# the `velocity` of a flow's spec is dx/dt, not progressive distillation's velocity
_PREDICTS: dict[str, Prediction] = {"velocity": "flow_velocity", "score": "score", "noise": "noise", "x0": "x0"}


class FlowLoss(DenoisingLoss):
    """The loss of a denoiser on a path from noise to data."""

    process: Annotated[Process, OneOf("processes")] = Field(
        Interpolant(kind="interpolant"), description="the path from noise to data"
    )
    predicts: Literal["velocity", "score", "noise", "x0"] = Field(
        "velocity", description="the quantity the network predicts; velocity is dx/dt"
    )
    APPLIES: ClassVar[Applies] = {"weighting": ("predicts", ("score", "noise"))}
    weighting: Literal["none", "velocity", "likelihood"] = Field(
        "none", description="weighting of the loss of score and noise predictions, as in SiT, table 2"
    )

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, _PREDICTS[self.predicts])

    def says(self) -> str:
        return "The weighted squared error of the prediction, one value per sample."

    def loss(self, at: Noised, prediction: Var) -> Terms:
        error, point = at.error(prediction), at.point
        squared = error * error
        if self.predicts in ("score", "noise") and self.weighting != "none":
            # The diffusion coefficient that turns a score into its contribution to the velocity.
            d_alpha, d_sigma = at.derivatives
            growth = d_alpha / point.alpha
            drift = growth * point.sigma * point.sigma - point.sigma * d_sigma
            scale = drift / point.sigma
            squared = squared * (scale * scale if self.weighting == "velocity" else scale / point.sigma)
        return {"loss": per_sample_mean(at.b, squared, out="loss")}


class Flow(DenoisingObjective, FlowLoss):
    """Stochastic interpolants (SiT, Ma et al. 2024, arXiv:2401.08740; Lipman et al. 2022, arXiv:2210.02747)."""

    kind: Literal["flow"]
    coupling: Annotated[Coupling | None, OneOf("couplings")] = Field(
        None, description="source of the path, if it is not noise alone"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow"}

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, _PREDICTS[self.predicts], coupling=self.coupling)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.coupling is not None and self.predicts != "velocity":
            message = f"a path that does not start from pure noise has no `{self.predicts}`"
            yield Problem(("predicts",), message, "predict `velocity`")
        elif self.coupling is not None and isinstance(spec.sampler, ArraySampler):
            try:
                table = spec.sampler.table(self.parameterization())
            except ValueError:  # the sampler's own problem, which it reports
                return
            if any(part.stochastic or np.any(part.columns["d_x"]) for part in table.parts()):
                message = f"`{spec.sampler.kind}` assumes that the path starts from pure noise"
                mend = "use the sampler `euler` or `heun`, which integrate the velocity over time"
                yield Problem(("coupling",), message, mend)
