"""Experts that the condition chooses, for all tokens of a sample: their weights are merged before they are used.

Beside mixture_of_experts: there every token has experts of its own, so that weights cannot be merged.

Symbols: B batch, T tokens, D (`dim`) width, E experts, F (`hidden`) their hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import FeedForward, Problem
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class AttributeExperts(FeedForward):
    """Conditional experts routed by attributes (Uni-Perceiver-MoE, Zhu et al. 2022, arXiv:2206.04674).

    The condition c, such as the embedded class, selects K of E experts for a whole sample. Both linear layers use the
    experts' weights summed by score, with scores that add up to 1 if K > 1, so there is one matmul per layer whatever
    the number of experts.
    """

    kind: Literal["attribute_experts"]
    experts: int = Field(8, gt=1, le=1_024, description="number of experts (E)")
    chosen: int = Field(2, gt=0, le=1_024, description="experts per sample (K)")
    ratio: float = Field(4.0, gt=0, description="hidden width of an expert, as a multiple of the width")
    approximate: Literal["tanh", "none"] = Field("none", description="GELU with the tanh approximation, or exact")
    activation: bool = Field(False, description="GELU between the router's linear layer and its norm")
    TAKES_VECTOR: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "attribute_experts", "experts": 3, "ratio": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.chosen > self.experts:
            message = f"{self.chosen} experts per sample exceed `experts` ({self.experts})"
            yield Problem(("chosen",), message, f"choose 1 to {self.experts}")

    def static(self, dim: int) -> dict[str, Any]:
        return {"hidden": int(dim * self.ratio), "experts": self.experts}

    def apply(self, b: Builder, name: str, x: Var, init: str, c: Var | None = None, **static: Any) -> Var:
        assert c is not None
        return b.sub(name, _forward(self, init), x, c, **static)  # type: ignore[no-any-return]


def merged_linear(b: Builder, x: Var, gates: Var, weight: Var, bias: Var) -> Var:
    """A linear layer whose weight and bias are sums over experts: f32[B, T, F].

    x f32[B, T, D], gates f32[B, E], weight f32[E, F, D], bias f32[E, F].
    """
    batch, experts = gates.shape
    _, features, size = weight.shape
    rows = b.matmul(gates, b.reshape(weight, shape=(experts, features * size)))
    merged = b.reshape(rows, shape=(batch, features, size), out="merged")
    y = b.matmul(x, b.transpose(merged, perm=(0, 2, 1)), out="y")
    return b.add(y, b.reshape(b.matmul(gates, bias), shape=(batch, 1, features)), out="y")  # type: ignore[no-any-return]


def _weights(b: Builder, name: str, experts: Any, features: Any, size: Any, init: str) -> tuple[Var, Var]:
    start: dict[str, Any] = {"std": 0.02} if init == "normal" else {"of": "each"}
    kind = "normal" if init == "normal" else "xavier_uniform"
    weight = b.param(f"{name}.weight", f32(experts, features, size), kind, **start)
    return weight, b.param(f"{name}.bias", f32(experts, features), "zeros")


@cache
def _forward(config: AttributeExperts, init: str) -> BlockBody:
    @module_class("AttributeExperts")
    def mixture(b: Builder, x: Var, c: Var, *, dim: int, hidden: int, experts: int) -> Var:
        """Two linear layers with GELU between them, of the experts that c chooses."""
        tag = b.dense("router.transform", c, dim, init="xavier_uniform", out="tag")
        tag = b.gelu(tag, approximate="none", out="tag") if config.activation else tag
        scale, shift = b.param("router.norm.weight", f32(dim), "ones"), b.param("router.norm.bias", f32(dim), "zeros")
        tag = b.layer_norm(tag, scale, shift, eps=1e-5, out="tag")
        scores = b.softmax(b.dense("router.gate", tag, experts, bias=False), axis=-1, out="scores")
        best, chosen = b.top_k(scores, k=config.chosen, out="best chosen")
        picked = b.equal(b.reshape(chosen, shape=(*chosen.shape, 1)), b.arange(experts))
        gates = b.where(picked, b.reshape(best, shape=(*best.shape, 1)), 0.0)
        gates = b.sum(gates, axes=(1,), keepdims=False, out="gates")
        if config.chosen > 1:
            gates = b.div(gates, b.sum(gates, axes=(1,), keepdims=True), out="gates")
        h = merged_linear(b, x, gates, *_weights(b, "fc1", experts, hidden, dim, init))
        h = b.gelu(h, approximate=config.approximate, out="h")
        return merged_linear(b, h, gates, *_weights(b, "fc2", experts, dim, hidden, init))

    return mixture
