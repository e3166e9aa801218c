"""Experts that each pick their best tokens of the whole batch, as many as a capacity predictor says.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feed_forwards._experts import Activation
from latentc.components.parts import dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.systems.diffmoe.capacity import CapacityExperts


class TokenPool(CapacityExperts):
    """Batch-level token pool with dynamic capacity (DiffMoE, Shi et al. 2025, arXiv:2503.14487).

    In training, each expert takes the B * T * capacity / E tokens (rounded down) of the batch with the highest scores.
    A predictor learns which tokens these are, and `threshold` averages the smallest probability among as many. At
    inference, an expert takes as many tokens as the predictor gives a probability above its threshold. A sample
    therefore depends on the rest of its batch: on both branches of guidance, or on one with `optimize.guidance:
    sequential`.
    """

    kind: Literal["token_pool"]
    shared_activation: Activation = Field("gelu", description="feed-forward of the shared expert")
    predictor_weight: float = Field(
        0.01, ge=0, description="weight of the capacity predictor's loss, added for every block and micro-batch"
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="decay per training step of the averaged thresholds")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "token_pool", **CapacityExperts.EXAMPLE}

    def body(self, init: str) -> BlockBody:
        return _forward(self, init)


@cache
def _forward(config: TokenPool, init: str) -> BlockBody:
    @module_class("TokenPool")
    def mixture(b: Builder, x: Var, *, dim: int, hidden: int, experts: int, shared: int = 0) -> Var:
        """Each expert takes its best tokens of the batch, and all tokens go through the shared expert."""
        scores = b.softmax(b.dense("gate", x, experts, bias=False, init="normal", std=0.006), axis=-1, out="scores")
        # The predictor learns from the tokens, but does not change them.
        h = b.silu(dense(b, "capacity.fc1", b.stop_gradient(x), dim, True, init))
        logits = dense(b, "capacity.fc2", h, experts, True, init, out="logits")
        threshold = b.param("threshold", f32(experts), "zeros", "state")
        capacity: float | Var = config.capacity
        if config.schedule is not None:
            capacity = config.schedule.capacity(b, config.capacity, experts)
        gates = b.pool_choice(scores, b.sigmoid(logits), threshold, capacity, momentum=config.momentum, out="gates")
        y = config.routed(b, x, gates, hidden, init, config.capacity)
        if config.predictor_weight:
            # Cross-entropy of the predictor with the choice; a chosen token's score is above 0.
            chosen = b.cast(b.op("greater", gates, 0.0), to="f32", out="chosen")
            loss = b.mean(b.softplus(logits) - chosen * logits, axes=(0, 1, 2), keepdims=False, out="loss")
            if config.predictor_weight != 1:
                loss = b.op("mul", loss, config.predictor_weight, out="loss")
            y = b.auxiliary_loss(y, loss, out="y")
        return config.with_shared(b, y, x, init, dim, shared)

    return mixture
