"""Maximum likelihood of flows in a row, with a weight on the norms of their inputs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.kit import Operands, call, training_method
from latentc.components.objectives.log_likelihood import LogLikelihood
from latentc.components.parts import Refusal, Spec
from latentc.ir.builder import Builder, Var


class FlowLikelihood(LogLikelihood):
    """`log_likelihood`, and the mean squared inputs of the flows (STARFlow's training, Gu et al. 2025)."""

    kind: Literal["flow_likelihood"]  # type: ignore[assignment]
    latent_norm: float = Field(1e-4, ge=0, description="weight of the mean squared input of each flow in turn")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_likelihood"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "flow", asks={"norms": True}),)

    def passed(self, b: Builder, network: Network, cond: Operands, x: Var) -> tuple[Var, ...]:
        if (method := training_method(network)) == "forward":
            message = "`latent_norm` weighs the inputs of flows in a row, but `main` is not made of such flows"
            raise Refusal(message, "use `log_likelihood`, or a network of flows in a row", ("latent_norm",))
        z, log_det, penalty = call(b, network, method, cond, state=x, out="z log_det penalty")
        return z, log_det, penalty * self.latent_norm
