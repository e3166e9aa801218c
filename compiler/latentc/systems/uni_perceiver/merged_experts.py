"""Linear layers of experts whose weights are merged for each sample, by the scores of a router.

Uni-Perceiver-MoE (Zhu et al. 2022, arXiv:2206.04674). Symbols: B batch, T tokens, D width, E experts, K experts per
sample, F output features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.parts import FeedForward, Part, Problem
from latentc.ir.builder import Builder, Var, f32


class ExpertRouter(Closed):
    """A router that selects K of E experts for a whole sample from a vector, such as the embedded condition, or for
    each part of all sequences from its attributes.

    A linear layer, a layer norm and a linear layer without bias score the experts; the scores of those selected add up
    to 1 if K > 1.
    """

    experts: int = Field(8, gt=1, le=1_024, description="number of experts (E)")
    chosen: int = Field(2, gt=0, le=1_024, description="experts per sample (K)")
    activation: bool = Field(False, description="GELU between the router's linear layer and its norm")
    attributes: tuple[tuple[float, ...], ...] | None = Field(
        None,
        min_length=1,
        max_length=2,
        description="numbers by which experts are chosen in place of the condition, such as Uni-Perceiver's eight bits "
        "of task and modality: one list for all tokens, or one for the tokens in front, such as captions, and one for "
        "those of the sample; null: the condition",
    )
    noise: Literal["normal", "gumbel"] | None = Field(
        None,
        description="noise of the router's logits in training: `normal` noise enters selection and scores, `gumbel` "
        "noise only the selection; null: none",
    )
    noise_std: float = Field(
        1.0, gt=0, le=1_024, description="scale of the noise: a factor of Gumbel noise, of normal noise divided by E"
    )

    jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="in training, what the router's last layer takes is multiplied by uniform numbers between 1 - this "
        "and 1 + this (the authors' `Jitter`: 0.01)",
    )

    def problems_of_choice(self) -> Iterator[Problem]:
        """Settings that contradict each other."""
        if self.chosen > self.experts:
            message = f"{self.chosen} experts per sample exceed `experts` ({self.experts})"
            yield Problem(("chosen",), message, f"choose 1 to {self.experts}")
        rows = self.attributes or ()
        if any(not row or len(row) != len(rows[0]) for row in rows):
            message = "lists of attributes must be of one length, and not empty"
            yield Problem(("attributes",), message, "give both parts as many numbers")
        if self.noise is None and self.noise_std != 1.0:
            yield Problem(("noise_std",), "`noise_std` has no effect without `noise`", "set `noise`, or leave it out")

    @property
    def parts(self) -> int:
        """How many parts of a sequence have attributes of their own; 0: the condition chooses the experts."""
        return len(self.attributes or ())

    def merged(self, b: Builder, c: Var | None, dim: Any, experts: Any, lead: Any = 0) -> Merged:
        """The layers of the experts that c f32[B, D] chooses, or that attributes do, of `lead` tokens in front."""
        if self.attributes is None:
            assert c is not None
            return Merged(self.gates(b, c, dim, experts))
        c = b.constant(np.array(self.attributes, np.float32), out="attributes")
        return Merged(self.gates(b, c, dim, experts), lead)

    def gates(self, b: Builder, c: Var, dim: Any, experts: Any) -> Var:
        """The factor of each expert in a sample's layers, f32[B, E], of c f32[B, D]."""
        tag = b.dense("router.transform", c, dim, init="xavier_uniform", out="tag")
        tag = b.gelu(tag, approximate="none", out="tag") if self.activation else tag
        scale, shift = b.param("router.norm.weight", f32(dim), "ones"), b.param("router.norm.bias", f32(dim), "zeros")
        tag = b.layer_norm(tag, scale, shift, eps=1e-5, out="tag")
        if self.jitter:
            tag = b.training_noise(tag, mode="relative", scale=self.jitter, out="tag")
        logits = b.dense("router.gate", tag, experts, bias=False)
        if self.noise == "normal":
            logits = b.training_noise(logits, mode="normal", scale=self.noise_std / self.experts, out="logits")
        scores = b.softmax(logits, axis=-1, out="scores")
        if self.noise == "gumbel":
            noisy = b.training_noise(logits, mode="gumbel", scale=self.noise_std, out="noisy")
            _, chosen = b.top_k(noisy, k=self.chosen, out="highest chosen")
        else:
            _, chosen = b.top_k(scores, k=self.chosen, out="best chosen")
        picked = b.equal(b.reshape(chosen, shape=(*chosen.shape, 1)), b.arange(experts))
        of_chosen = b.where(picked, b.reshape(scores, shape=(scores.shape[0], 1, experts)), 0.0)
        gates = b.sum(of_chosen, axes=(1,), keepdims=False, out="gates")
        if self.chosen > 1:
            gates = b.div(gates, b.sum(gates, axes=(1,), keepdims=True), out="gates")
        return gates


def routes(part: Part) -> bool:
    """Whether a vector chooses experts in a part of a block."""
    routers = [value for value in (part, *vars(part).values()) if isinstance(value, ExpertRouter)]
    return any(not router.parts for router in routers) or (isinstance(part, FeedForward) and part.takes_vector)


@dataclass(frozen=True)
class Merged:
    """Linear layers of merged experts: by `gates` f32[B, E] of each sample, or f32[P, E] of the parts of a sequence, of
    which the first, if there are two, has `lead` tokens.
    """

    gates: Var
    lead: Any = 0

    def dense(self, b: Builder, name: str, x: Var, features: Any, bias: bool, init: str) -> Var:
        """The layer `name` of merged experts, each initialised as a linear layer of its own: f32[B, T, features]."""
        experts, size = self.gates.shape[1], x.shape[2]
        start: dict[str, Any] = {"std": 0.02} if init == "normal" else {"of": "each"}
        kind = "normal" if init == "normal" else "xavier_uniform"
        weight = b.param(f"{name}.weight", f32(experts, features, size), kind, **start)
        biases = b.param(f"{name}.bias", f32(experts, features), "zeros") if bias else None
        if not self.lead:
            return merged_linear(b, x, self.gates, weight, biases)
        parts = b.split(x, axis=1, sizes=(self.lead, x.shape[1] - self.lead), out="first rest")
        gates = b.split(self.gates, axis=0, sizes=(1, 1), out="first_gates gates")
        done = [merged_linear(b, *part, weight, biases) for part in zip(parts, gates, strict=True)]
        return b.concat(*done, axis=1, out="y")


def merged_linear(b: Builder, x: Var, gates: Var, weight: Var, bias: Var | None) -> Var:
    """A linear layer whose weight and bias are sums over experts: f32[B, T, F].

    x f32[B, T, D], gates f32[B or 1, E], weight f32[E, F, D], bias f32[E, F].
    """
    batch, experts = gates.shape
    _, features, size = weight.shape
    rows = b.matmul(gates, b.reshape(weight, shape=(experts, features * size)))
    merged = b.reshape(rows, shape=(batch, features, size), out="merged")
    y = b.matmul(x, b.transpose(merged, perm=(0, 2, 1)), out="y")
    if bias is None:
        return y
    return b.add(y, b.reshape(b.matmul(gates, bias), shape=(batch, 1, features)), out="y")
