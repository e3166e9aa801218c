"""The interference that contrastive flow matching leaves in guided samples, taken out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import Array, Change, GuidanceTerm, Scheduled, interval_problems, within
from latentc.components.kit import call
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.samplers.guided import Predictions, column
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import ModuleBuilder, Var


class Interference(Scheduled, GuidanceTerm):
    """(1 - scale) g + scale m, with g the prediction guided by the other terms and m the mean training target.

    Contrastive flow matching (Stoica et al. 2025, arXiv:2506.05350, section 5.4) learns (u - scale m) / (1 - scale)
    instead of the flow u, where `scale` is the weight of the contrast. m is learned by a network `constant`.
    """

    SETTING: ClassVar[str] = "interference"
    INPUT: ClassVar[str] = "interference_scale"
    MEMORY: ClassVar[bool] = True

    kind: Literal["interference"]
    network: str = Field(description="one of `networks`, which predicts m")
    scale: float = Field(0.05, ge=0, description="default share of m; 0 is no change. An input of the engine")
    kept: float | None = Field(None, ge=0, le=100, description="factor of g; null: 1 - scale")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="progress range from noise (0) to data (1) in which it is active"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "interference", "network": "mean"}

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.network, "denoise", place=("network",)),)

    def weights(self, progress: Sequence[float]) -> Array:
        return self.grown(progress) * [within(p, self.interval) for p in progress]

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from interval_problems(self.interval)
        if self.network == "main":
            message = "`main` predicts each sample's target, not the mean over them"
            yield Problem(("network",), message, "name a network of `{kind: constant}`")

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> WithoutInterference:
        return WithoutInterference(networks[self.network], self.kept)


@dataclass(frozen=True)
class WithoutInterference(Change):
    """kept g + scale m, with m by `network`; `kept` None: 1 - scale."""

    network: Network
    kept: float | None

    def __call__(self, e: Predictions, guided: Var, scale: Var, weight: Coefficient) -> Var:
        b = e.b
        mean = call(b, self.network, "forward", e.request.operands, state=e.x, time=e.time, out="mean")
        scale = column(b, scale, e.x)
        if self.kept is None:
            change = b.mul(scale, b.op("sub", mean, guided), out="correction")
        else:
            change = weighted_sum(b, "correction", (self.kept - 1.0, guided), (1.0, b.mul(scale, mean)))
        return b.add(guided, weighted_sum(b, "correction", (weight, change)), out="corrected")
