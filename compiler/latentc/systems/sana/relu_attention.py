"""Linear attention with ReLU features and nothing else.

Symbols: B batch, T tokens, D width, H heads, d channels of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.parts import PlainMixer, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class

TINY = 1e-15
"""Added to what the output is divided by."""


class ReluAttention(PlainMixer):
    """relu(q) (relu(k)^T v) / (relu(q) sum relu(k)) over H heads, linear time in T (SANA, Xie et al. 2024)."""

    kind: Literal["relu_attention"]
    heads: int = Field(gt=0, le=1_024, description="heads; must divide the width")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "relu_attention", "heads": 2}

    @property
    def head_count(self) -> int:
        return self.heads

    def static(self, dim: int) -> dict[str, Any]:
        return {"heads": self.heads}

    def body(self, init: str) -> BlockBody:
        return _forward(init)


@cache
def _forward(init: str) -> BlockBody:
    @module_class("ReluAttention")
    def attention(b: Builder, x: Var, *, dim: int, heads: int) -> Var:
        """Linear attention with ReLU features."""
        tokens = x.shape[1]
        q, k, v = b.split(dense(b, "qkv", x, 3 * dim, False, init, out="qkv"), axis=2, sizes=(dim,) * 3, out="q k v")
        q, k, v = (split_heads(b, part, heads, dim // heads, label) for part, label in ((q, "q"), (k, "k"), (v, "v")))
        # Means over the tokens, not sums: they stay small in half precision.
        keys = b.transpose(b.op("div", b.relu(k), tokens), perm=(0, 1, 3, 2), out="keys")
        q, total = b.relu(q, out="q"), b.sum(keys, axes=(3,), keepdims=True, out="total")
        x = b.matmul(q, b.matmul(keys, v, out="memory")) / (b.matmul(q, total) + TINY)
        return dense(b, "proj", joined_heads(b, x, dim, out="x"), dim, True, init, out="x")

    return attention
