"""Attention by cosines: queries and keys have length 1, and each head learns the scale of its scores.

Symbols: B batch, N tokens, H heads, d channels of a head.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.ir.builder import Builder, Var, f32

_EPS = 1e-12
"""Smallest length that a query or key is divided by."""


class CosineAttention(Attention):
    """Attention whose scores are cosines times a learned factor per head, initially 4; keys have no bias (VAR)."""

    kind: Literal["cosine_attention"]  # type: ignore[assignment]
    largest: float = Field(100.0, gt=0, le=1_000_000, description="largest factor of the scores")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cosine_attention", "heads": 2}

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def projections(self, call: Call, x: Var, inner: Any, kv_dim: Any) -> tuple[Var, Var, Var]:
        b, size = call.b, inner + 2 * kv_dim if call.kv_heads else 3 * inner
        q, k, v = b.split(self.joint(call, x, size, False), axis=2, sizes=(inner, kv_dim, kv_dim), out="q k v")
        if self.value_bias:
            q = b.add(q, b.param("q_bias", f32(inner), "zeros"), out="q")
            v = b.add(v, b.param("v_bias", f32(kv_dim), "zeros"), out="v")
        return q, k, v

    def heads_of(self, call: Call, x: Var) -> tuple[Var, Var, Var]:
        b, (q, k, v) = call.b, super().heads_of(call, x)
        q, k = _unit(b, q, "q"), _unit(b, k, "k")
        factor = b.param("log_factor", f32(1, call.heads, 1, 1), "constant", value=math.log(4.0))
        return b.mul(q, b.exp(b.minimum(factor, math.log(self.largest)), out="factor"), out="q"), k, v

    def scale(self, q: Var) -> float | None:
        return 1.0


def _unit(b: Builder, x: Var, out: str) -> Var:
    """x [..., d] divided by its length along the last axis."""
    length = b.sqrt(b.sum(x * x, axes=(3,), keepdims=True), out="length")
    return b.div(x, b.maximum(length, _EPS), out=out)
