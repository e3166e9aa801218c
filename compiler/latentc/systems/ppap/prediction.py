"""How close what a network predicts of the data is to what a request asks for: a depth map, a segmentation.

Symbols: B batch, F features or classes, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Network
from latentc.components.guidance.scores._score import NetworkScore
from latentc.components.kit import Operands, call, per_sample_mean
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var
from latentc.ir.types import TensorType


class Prediction(NetworkScore):
    """Guidance by any network that maps images, as PPAP's by depth and segmentation (Go et al. 2022, arXiv:2212.05973).

    The network predicts a map [F, ...] from the data, or from the noisy state (PPAP's experts): a depth per position,
    or logits of F classes. The score is the negative mean over positions of its distance from the map that a request
    gives.
    """

    OF_STATES: ClassVar[bool] = True
    REQUIRED: ClassVar[bool] = True

    kind: Literal["prediction"]
    reference: str = Field(description="the condition that gives the wanted map: an array of the shape of what it sees")
    match: Literal["square", "absolute", "classes"] = Field(
        "square",
        description="the distance: squared, absolute, or the cross-entropy of the F logits at each position from the "
        "wanted classes, given as probabilities (one-hot)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "prediction", "network": "eye", "reference": "depth"}

    def reads(self) -> tuple[str, ...]:
        return (self.reference,)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        condition, network = spec.conditions.get(self.reference), spec.networks.get(self.network or "")
        seen = network.map_seen(spec) if isinstance(network, Backbone) else None
        if condition is None or seen is None:
            return  # reported by the owner of the score, and where networks are matched with needs
        ports = condition.ports(self.reference, spec)
        if not ports or ports[0].type.dtype != "f32" or tuple(ports[0].type.shape[1:]) != seen:
            message = (
                f"condition `{self.reference}` does not have the shape {list(seen)} of the map that "
                f"`{self.network}` predicts"
            )
            mend = f"use a condition of kind `array` from a data field of shape {list(seen)}"
            yield Problem(("reference",), message, mend)
        elif self.match == "classes" and seen[0] == 1:
            yield Problem(("match",), f"`{self.network}` predicts one number per position, not classes", "use `square`")

    def operands(self, data: TensorType, networks: Mapping[str, Network]) -> dict[str, TensorType]:
        assert self.network is not None
        return {self.reference: networks[self.network].methods["see"].output().type}

    def build(
        self, b: Builder, data: Var, given: Operands, networks: Mapping[str, Network], time: Var | None = None
    ) -> Var:
        assert self.network is not None
        at = {} if time is None else {"time": time}
        predicted = call(b, networks[self.network], "see", {}, state=data, out="predicted", **at)
        wanted = given[self.reference]
        if self.match == "classes":
            highest = b.max(predicted, axes=(1,), keepdims=True, out="highest")
            logits = b.op("sub", predicted, highest, out="logits")
            total = b.log(b.sum(b.exp(logits), axes=(1,), keepdims=True), out="total")
            inner = b.sum(b.mul(wanted, b.op("sub", logits, total)), axes=(1,), keepdims=False, out="score")
            return per_sample_mean(b, inner, out="score") if inner.type.rank > 1 else inner
        difference = b.op("sub", predicted, wanted, out="difference")
        distance = b.abs(difference) if self.match == "absolute" else b.mul(difference, difference)
        return b.neg(per_sample_mean(b, distance), out="score")
