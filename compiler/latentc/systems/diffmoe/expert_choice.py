"""Experts that each pick their best tokens of a sample.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.diffmoe.capacity import CapacityExperts


class ExpertChoice(CapacityExperts):
    """Expert-choice routing (Zhou et al. 2022, arXiv:2202.09368; EC-DiT, Sun et al. 2024, arXiv:2410.02098).

    Each expert takes the T * capacity / E tokens (rounded down) with the highest scores from a sample's T tokens.
    """

    kind: Literal["expert_choice"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "expert_choice", **CapacityExperts.EXAMPLE}

    def body(self, init: str) -> BlockBody:
        return _forward(self, init)


def _count(b: Builder, tokens: Any, experts: Any, config: ExpertChoice) -> Any:
    """Tokens that an expert takes; an expression of the sizes for a whole capacity without a schedule."""
    capacity = config.capacity
    if config.schedule is not None:
        scheduled = config.schedule.capacity(b, capacity, experts)
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
        y = config.routed(b, x, gates, hidden, init, config.capacity)
        return config.with_shared(b, y, x, init, dim, shared)

    return mixture
