"""A residual network with low-rank adapters of its convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks.resnet_classifier import ResnetClassifier
from latentc.ir.builder import Builder, Var
from latentc.ir.types import TensorType
from latentc.systems.ppap.low_rank import LowRank


class AdaptedResnet(ResnetClassifier):
    """A resnet_classifier whose stem and first two convolutions of every block have a low-rank adapter each.

    Only these and the batch norms are trained (PPAP, Go et al. 2022, arXiv:2212.05973).
    """

    kind: Literal["adapted_resnet"]  # type: ignore[assignment]
    adapter: LowRank = Field(LowRank(), description="low-rank adapters of convolutions")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **ResnetClassifier.EXAMPLE,
        "kind": "adapted_resnet",
        "adapter": {"rank": 2, "alpha": 2.0},
    }

    def param(self, b: Builder, name: str, type: TensorType, init: str, **args: Any) -> Var:
        # Part of every checkpoint, but not trained.
        return b.param(name, type, "normal", "state", std=0.02)

    def kernel(self, b: Builder, name: str, weight: Var, sizes: Mapping[str, Any]) -> Var:
        return self.adapter.adapted(b, name, weight, sizes["rank"])

    def sizes_of_blocks(self) -> dict[str, Any]:
        return {"rank": self.adapter.rank}
