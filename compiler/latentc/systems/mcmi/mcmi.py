"""The MCMI teacher's objective.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.kit import call
from latentc.components.objectives.classification import Classification, Classified
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, Var

CENTROIDS = "centroids"
"""Name of the network that averages class probabilities."""
LEAST = 1e-12
"""Least probability in a centroid, so that its logarithm is finite."""


class Mcmi(Classification):
    """Cross-entropy of the label minus `weight` times the conditional mutual information of sample and output.

    That is the mean KL divergence of a sample's class probabilities from their average over its class, which the
    network `centroids` keeps (MCMI, Ye et al. 2024, arXiv:2401.08732). It usually continues from a trained classifier.
    """

    kind: Literal["mcmi"]  # type: ignore[assignment]
    weight: float = Field(0.15, ge=0, description="weight of the conditional mutual information, the paper's lambda")
    LOSS: ClassVar[str] = "The loss, whether the label is right, and the conditional mutual information, per sample."
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mcmi"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (*super().needs(spec), Need(CENTROIDS, "class_centroids"))

    def completed(self, b: Builder, networks: Mapping[str, Network], seen: Classified) -> tuple[Var, dict[str, Var]]:
        log_p = b.log_softmax(seen.logits, axis=-1, out="log_p")
        p = b.exp(log_p, out="p")
        given = {"state": b.stop_gradient(p, out="given"), "token": seen.y}
        centroid = b.stop_gradient(call(b, networks[CENTROIDS], "forward", {}, **given, out="centroid"))
        ratio = b.op("sub", log_p, b.log(b.maximum(centroid, LEAST)), out="ratio")
        information = b.sum(b.mul(p, ratio), axes=(1,), keepdims=False, out="information")
        return b.op("sub", seen.loss, information * self.weight, out="loss"), {"information": information}
