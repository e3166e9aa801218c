"""Blocks that attend to tokens of conditions, whose keys and values decoding steps keep.

Symbols: B batch, H heads, L tokens of conditions, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.cross_attention import CrossAttention
from latentc.components.blocks.cross_attention import attended, context_attention, keys_and_values, queries
from latentc.components.decoding import DECODE, Given
from latentc.components.parts import FeedForward, Mixer, Norm
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class RememberedContext(CrossAttention):
    """Cross-attention without biases; decoding computes the keys and values of the condition tokens once (GIVT)."""

    kind: Literal["remembered_context"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "remembered_context"}

    def looked_up(self, b: Builder, h: Var, given: Given, init: str, sizes: Mapping[str, Any]) -> Var:
        return b.sub("cross_attn", context_attention(init, False, False), h, given.values["context"], out="h", **sizes)

    def remember_block(self, init: str) -> BlockBody:
        """The method that returns keys and values f32[B, H, L, d] of the context."""
        return _remember_block(init)

    def recall_block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        """The block for one token: x, the context's keys and values, position, mask, caches -> x, the grown caches."""
        return _recalled().block(mixer, feed_forward, norm, init, DECODE)


@cache
def _recalled() -> RememberedContext:
    """The same blocks on the keys and values of the context."""

    class Recalled(RememberedContext):
        OPERANDS: ClassVar[tuple[str, ...]] = ("context_keys", "context_values")

        def looked_up(self, b: Builder, h: Var, given: Given, init: str, sizes: Mapping[str, Any]) -> Var:
            context = (given.values[name] for name in self.OPERANDS)
            return b.sub("cross_attn", _look_up(init, False), h, *context, out="h", **sizes)

    return Recalled(kind="remembered_context")


@cache
def _remember_block(init: str) -> BlockBody:
    @module_class("ContextBlock", "remember", context="B L context_dim")
    def remember(b: Builder, context: Var, *, dim: int, context_dim: int, **static: Any) -> tuple[Var, Var]:
        """Keys and values of the context."""
        sizes = {"dim": dim, "context_dim": context_dim, "heads": static["heads"]}
        return b.sub("cross_attn", _memory(init), context, out="keys values", **sizes)

    return remember


@cache
def _memory(init: str) -> BlockBody:
    @module_class("ContextAttention", "remember", context="B L context_dim")
    def remember(b: Builder, context: Var, *, dim: int, context_dim: int, heads: int) -> tuple[Var, Var]:
        """Keys and values [B, H, L, d] of a context [B, L, E], which decoding steps look at again."""
        return keys_and_values(b, context, dim, heads, False, init)

    return remember


@cache
def _look_up(init: str, bias: bool) -> BlockBody:
    @module_class("ContextAttention", "look_up", x="B T dim")
    def look_up(b: Builder, x: Var, k: Var, v: Var, *, dim: int, context_dim: int, heads: int) -> Var:
        """Attention of x [B, T, D] to keys and values [B, H, L, d] of a context."""
        return attended(b, queries(b, x, dim, heads, False, init), k, v, (), dim, init, bias)

    return look_up
