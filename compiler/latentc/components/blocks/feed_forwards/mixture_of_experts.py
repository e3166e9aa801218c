"""Feed-forwards of which a router picks a few for each token, beside one that all tokens share.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feed_forwards import _experts
from latentc.components.blocks.feed_forwards._experts import Activation
from latentc.components.parts import FeedForward, Problem
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class MixtureOfExperts(FeedForward):
    """Top-k routed experts with a shared expert (DeepSeekMoE, Dai et al. 2024; DiT-MoE, arXiv:2407.11633)."""

    kind: Literal["mixture_of_experts"]
    experts: int = Field(8, gt=1, le=1_024, description="number of routed experts (E)")
    per_token: int = Field(2, gt=0, le=1_024, description="experts per token (K)")
    ratio: float = Field(4.0, gt=0, description="hidden width of an expert, as a multiple of the width")
    shared: float = Field(
        2.0, ge=0, description="hidden width of the shared expert, as a multiple of the width; 0: none"
    )
    activation: Activation = Field("swiglu", description="feed-forward of a routed expert")
    shared_activation: Activation = Field("swiglu", description="feed-forward of the shared expert")
    expert_std: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the experts' initial weights; null: as set by the network's `weights`",
    )
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
        sizes = {"hidden": int(dim * self.ratio), "experts": self.experts, "per_token": self.per_token}
        return {**sizes, **({"shared": int(dim * self.shared)} if self.shared else {})}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, _forward(self, init), x, **static)  # type: ignore[no-any-return]


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
        y = _experts.routed(b, x, gates, config.activation, hidden, init, per_token, config.expert_std)
        if config.balance:
            # Fraction of the choices that each expert gets, times its mean score (Fedus et al. 2021, equation 4).
            fraction = b.mean(b.cast(picked, to="f32"), axes=(0, 1, 2), keepdims=False, out="fraction")
            unevenness = b.sum(fraction * b.mean(scores, axes=(0, 1), keepdims=False), axes=(0,), keepdims=False)
            y = b.auxiliary_loss(y, b.op("mul", unevenness * experts, config.balance, out="balance"), out="y")
        if not config.shared:
            return y
        return y + _experts.shared(b, x, config.shared_activation, init, dim, shared)

    return mixture
