"""Linear attention that normalises queries and keys by softmax.

A file beside linear_attention.py, whose features are ReLUs that are divided by their sum, and which convolves the
values: here nothing is divided, and heads have a width of their own. Symbols: B batch, T tokens, D (`dim`) width, H
heads, d channels of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.parts import PlainMixer, TokenNorm, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class EfficientAttention(PlainMixer):
    """softmax(q) (softmax(k)^T v) / sqrt(d), with softmax over channels for queries and over tokens for keys.

    Shen et al. 2021, arXiv:1812.01243. Linear time in T.
    """

    kind: Literal["efficient_attention"]
    heads: int = Field(4, gt=0, le=1_024, description="heads; must divide the width, unless `head_width` is given")
    head_width: int | None = Field(None, gt=0, le=16_384, description="channels per head; null: the width over `heads`")
    bias: bool = Field(False, description="biases of the query, key and value projections")
    norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm after the output projection"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "efficient_attention", "heads": 2, "norm": {"kind": "rms_norm"}}

    @property
    def head_count(self) -> int:
        return self.heads

    def head_size(self, width: int) -> int:
        return self.head_width or super().head_size(width)

    def static(self, dim: int) -> dict[str, Any]:
        return {"heads": self.heads, **({} if self.head_width is None else {"head_width": self.head_width})}

    def body(self, init: str) -> BlockBody:
        return _forward(self, init)


@cache
def _forward(config: EfficientAttention, init: str) -> BlockBody:
    @module_class("EfficientAttention", x="B T dim")
    def attention(b: Builder, x: Var, *, dim: int, heads: int, head_width: int | None = None) -> Var:
        """Linear attention over H heads, with softmax of queries over channels and of keys over tokens."""
        size, inner = (dim // heads, dim) if head_width is None else (head_width, heads * head_width)
        qkv = dense(b, "qkv", x, 3 * inner, config.bias, init, out="qkv")
        parts = b.split(qkv, axis=2, sizes=(inner, inner, inner), out="q k v")
        q, k, v = (split_heads(b, part, heads, size, label) for part, label in zip(parts, "qkv", strict=True))
        q = b.op("div", b.softmax(q, axis=3), b.sqrt(b.scalar(size, q)), out="q")
        k = b.softmax(k, axis=2, out="k")
        memory = b.matmul(b.transpose(k, perm=(0, 1, 3, 2)), v, out="memory")
        x = joined_heads(b, b.matmul(q, memory), inner, out="x")
        x = dense(b, "proj", x, dim, True, init, out="x")
        return config.norm.apply(b, "norm", x) if isinstance(config.norm, TokenNorm) else x

    return attention
