"""RIN's embedding of numbers: standardised sinusoids through two linear layers."""

from __future__ import annotations

from functools import cache
from typing import Any

from latentc.components.condition import TimeFeatures
from latentc.components.layers import linear
from latentc.ir.builder import BlockBody, Builder, Var, module_class


@cache
def standardized_embedder(features: TimeFeatures, scale: float) -> BlockBody:
    """A block: t f32[B] -> f32[B, dim]; its features are of `scale` times t, with mean 0 and deviation 1."""

    @module_class("StandardizedEmbedder")
    def embedder(b: Builder, t: Var, *, dim: int, **static: Any) -> Var:
        """Embeds numbers: standardised sinusoids, then two linear layers."""
        x = features.features(b, t * scale, **static)
        x = b.op("sub", x, b.mean(x, axes=(1,), keepdims=True), out="centered")
        count = int(static["frequencies"])
        variance = b.sum(x * x, axes=(1,), keepdims=True, out="variance") * (1.0 / (count - 1))
        x = b.div(x, b.sqrt(variance), out="x")
        x = b.silu(linear(b, "fc1", x, dim, "xavier"), out="x")
        return linear(b, "fc2", x, dim, "xavier")

    return embedder
