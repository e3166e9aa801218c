"""Feed-forwards of which a router picks a few for each token, beside one that all tokens share.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feed_forwards._experts import Activation, RoutedExperts
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class MixtureOfExperts(RoutedExperts):
    """Top-k routed experts with a shared expert (DeepSeekMoE, Dai et al. 2024; DiT-MoE, arXiv:2407.11633)."""

    kind: Literal["mixture_of_experts"]
    per_token: int = Field(2, gt=0, le=1_024, description="experts per token (K)")
    shared: float = Field(
        2.0, ge=0, description="hidden width of the shared expert, as a multiple of the width; 0: none"
    )
    activation: Activation = Field("swiglu", description="feed-forward of a routed expert")
    normalise: bool = Field(False, description="normalise the gates of a token to sum to 1")
    balance: float = Field(
        0.01,
        ge=0,
        description="weight of the load-balancing loss, added for every block and micro-batch",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mixture_of_experts", "experts": 4}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.per_token > self.experts:
            message = f"{self.per_token} experts per token exceed `experts` ({self.experts})"
            yield Problem(("per_token",), message, f"choose 1 to {self.experts}")

    def static(self, dim: int) -> dict[str, Any]:
        return {**super().static(dim), "per_token": self.per_token}

    def body(self, init: str) -> BlockBody:
        return _forward(self, init)


@cache
def _forward(config: MixtureOfExperts, init: str) -> BlockBody:
    @module_class("MixtureOfExperts")
    def mixture(b: Builder, x: Var, *, dim: int, hidden: int, experts: int, per_token: int, shared: int = 0) -> Var:
        """Each token through its best experts, weighted by their scores, and through the shared expert."""
        scores = b.softmax(b.dense("gate", x, experts, bias=False), axis=-1, out="scores")
        best, chosen = b.top_k(scores, k=per_token, out="best chosen")
        if config.normalise:
            best = b.op("div", best, b.sum(best, axes=(2,), keepdims=True), out="best")
        column = (*best.shape, 1)
        picked = b.equal(b.reshape(chosen, shape=column), b.arange(experts), out="picked")
        gates = b.sum(b.where(picked, b.reshape(best, shape=column), 0.0), axes=(2,), keepdims=False, out="gates")
        y = config.routed(b, x, gates, hidden, init, per_token)
        if config.balance:
            # Fraction of the choices that each expert gets, times its mean score (Fedus et al. 2021, equation 4).
            fraction = b.mean(b.cast(picked, to="f32"), axes=(0, 1, 2), keepdims=False, out="fraction")
            unevenness = b.sum(fraction * b.mean(scores, axes=(0, 1), keepdims=False), axes=(0,), keepdims=False)
            y = b.auxiliary_loss(y, b.op("mul", unevenness * experts, config.balance, out="balance"), out="y")
        return config.with_shared(b, y, x, init, dim, shared)

    return mixture
