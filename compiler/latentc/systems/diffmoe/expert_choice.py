"""Experts that each pick their best tokens of a sample.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feed_forwards import _experts
from latentc.components.blocks.feed_forwards._experts import Activation, CapacitySchedule
from latentc.components.parts import FeedForward, Problem
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class ExpertChoice(FeedForward):
    """Expert-choice routing (Zhou et al. 2022, arXiv:2202.09368; EC-DiT, Sun et al. 2024, arXiv:2410.02098).

    Each expert takes the T * capacity / E tokens (rounded down) with the highest scores from a sample's T tokens.
    """

    kind: Literal["expert_choice"]
    experts: int = Field(8, gt=1, le=1_024, description="number of routed experts (E)")
    capacity: float = Field(1.0, gt=0, le=1_024, description="mean number of experts per token")
    schedule: CapacitySchedule | None = Field(None, description="a higher capacity early in training; null: none")
    ratio: float = Field(4.0, gt=0, description="hidden width of an expert, as a multiple of the width")
    shared: float = Field(
        0.0, ge=0, description="hidden width of the shared expert, as a multiple of the width; 0: none"
    )
    activation: Activation = Field("gelu", description="feed-forward of a routed expert")
    shared_activation: Activation = Field("swiglu", description="feed-forward of the shared expert")
    expert_std: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the experts' initial weights; null: as set by the network's `weights`",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "expert_choice",
        "experts": 4,
        "ratio": 2.0,
        "schedule": {"hold": 0, "until": 2},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from _experts.problems_of_capacity(self.capacity, self.schedule, self.experts)

    def static(self, dim: int) -> dict[str, Any]:
        sizes = {"hidden": int(dim * self.ratio), "experts": self.experts}
        return {**sizes, **({"shared": int(dim * self.shared)} if self.shared else {})}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, _forward(self, init), x, **static)  # type: ignore[no-any-return]


def _count(b: Builder, tokens: Any, experts: Any, config: ExpertChoice) -> Any:
    """Tokens that an expert takes; an expression of the sizes for a whole capacity without a schedule."""
    capacity = config.capacity
    if config.schedule is not None:
        scheduled = _experts.scheduled_capacity(b, capacity, config.schedule, experts)
        count = b.floor(scheduled * b.scalar(tokens, scheduled) / b.scalar(experts, scheduled))
        return b.cast(b.maximum(count, 1.0), to="i64", out="count")
    if capacity == int(capacity) and tokens * int(capacity) >= experts:
        return tokens * int(capacity) // experts if capacity != 1 else tokens // experts
    return max(1, int(int(tokens) / int(experts) * capacity))


@cache
def _forward(config: ExpertChoice, init: str) -> BlockBody:
    @module_class("ExpertChoice")
    def mixture(b: Builder, x: Var, *, dim: int, hidden: int, experts: int, shared: int = 0) -> Var:
        """Each expert takes its best tokens of a sample, and all tokens go through the shared expert."""
        scores = b.softmax(b.dense("gate", x, experts, bias=False, init="normal", std=0.006), axis=-1, out="scores")
        per_expert = b.transpose(scores, perm=(0, 2, 1), out="per_expert")
        rank = b.argsort(b.argsort(-per_expert), out="rank")
        kept = b.where(b.less(rank, _count(b, x.shape[1], experts, config)), per_expert, 0.0, out="kept")
        gates = b.transpose(kept, perm=(0, 2, 1), out="gates")
        y = _experts.routed(b, x, gates, config.activation, hidden, init, config.capacity, config.expert_std)
        return y + _experts.shared(b, x, config.shared_activation, init, dim, shared) if config.shared else y

    return mixture
