"""Exits after blocks of a denoiser: each learns to predict, and how uncertain it is.

Symbols: B batch; g the prediction of an exit, u its uncertainty.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need
from latentc.components.kit import first_channels, per_sample_mean
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Var


class EarlyExit(DenoisingTerm):
    """DeeDiff's two losses per exit (Tang et al. 2023, arXiv:2309.17074): its squared error, with less weight where it
    is uncertain, and the squared difference of its uncertainty from tanh |error|. Uncertainties are per sample:
    means over the tokens and over the elements of the error. They weight the errors without a gradient.
    """

    kind: Literal["early_exit"]
    weight: float = Field(1.0, gt=0, description="weight of both losses")
    network: str = Field("exits", description="one of `networks`, of kind `early_exits`")
    uncertainty: float = Field(1.0, ge=0, description="weight of the uncertainty loss in the sum")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "early_exit"}

    @property
    def trains(self) -> tuple[str, ...]:
        return (self.network,)

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.network, "exit", place=("network",)),)

    def value(self, denoised: Denoised) -> Var:
        b, exits = denoised.b, denoised.networks[self.network]
        forward = exits.methods["forward"]
        count = len(forward.outputs) // 2
        names = " ".join([*["exit"] * count, *["uncertainty"] * count])
        made = b.call(forward.function, exits.name, denoised.at.network_time, *denoised.features, out=names)
        total: list[Var] = []
        for prediction, u in zip(made[:count], made[count:], strict=True):
            error = b.op("sub", first_channels(b, prediction, denoised.at.truth), denoised.at.truth, out="error")
            squared = per_sample_mean(b, error * error, out="squared")
            layer = b.op("mul", 1.0 - b.stop_gradient(u), squared, out="layer")
            wanted = b.stop_gradient(per_sample_mean(b, b.tanh(b.abs(error)), out="wanted"))
            doubt = b.op("sub", u, wanted, out="doubt")
            total.append(weighted_sum(b, "exit_loss", (1.0, layer), (self.uncertainty, doubt * doubt)))
        return weighted_sum(b, "early_exit", *((1.0, loss) for loss in total))
