"""The transformer that may follow a residual block of U-Nets: it attends to the feature map and to given tokens.

Why a file of its own: its attention reads tokens of another width than that of the feature map, without biases, between
two projections of the map; the blocks of flat transformers have neither. Symbols: B batch, C channels, T positions of
the feature map, L given tokens, D their width.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field

from latentc.components import Closed
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.unet.layers import SHAPES, Weights, group_norm, linear
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.ir.types import Named, product


class MapTransformer(Closed):
    """Blocks of self-attention, attention to given tokens and a gated feed-forward (Rombach et al. 2022, LDM)."""

    depth: int = Field(1, gt=0, le=64, description="transformer blocks per attention")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of the feed-forward as a multiple of the channels")
    eps: float = Field(1e-6, gt=0, description="eps of the GroupNorm before the blocks")

    def apply(
        self, b: Builder, name: str, x: Var, context: tuple[Var, ...], heads: Any, groups: int, weights: Weights
    ) -> Var:
        """x [B, C, ...] under context (tokens [B, L, D], perhaps which of them count, bool[B, L]) -> x's shape."""
        static = {"channels": x.shape[1], "context_dim": context[0].shape[-1], "heads": heads, "depth": self.depth}
        body = _transformer(self, x.type.rank - 2, groups, weights)
        return b.sub(name, body, x, *context, out="x", **static)


@cache
def _transformer(config: MapTransformer, axes: int, groups: int, weights: Weights) -> BlockBody:
    @module_class("MapTransformer", x=SHAPES[axes], context="B L context_dim")
    def forward(
        b: Builder, x: Var, context: Var, *mask: Var, channels: int, context_dim: int, heads: int, depth: int
    ) -> Var:
        """Attention among the positions of x [B, channels, ...] and to the context, added to x."""
        batch, _, *space = x.shape
        positions = Named(int(product(space)), "T", "positions of x")  # type: ignore[arg-type]
        h = group_norm(b, "norm", x, groups, 1, config.eps)
        h = b.transpose(b.reshape(h, shape=(batch, channels, positions)), perm=(0, 2, 1), out="h")
        h = b.dense("proj_in", h, channels, out="h")
        block, sizes = _block(config), {"dim": channels, "context_dim": context_dim, "heads": heads}
        for name in items("blocks", depth):
            h = b.sub(name, block, h, context, *mask, out="h", **sizes)
        h = b.transpose(linear(b, "proj_out", h, channels, weights, "last"), perm=(0, 2, 1))
        return b.add(x, b.reshape(h, shape=x.shape, out="h"), out="x")

    return forward


@cache
def _block(config: MapTransformer) -> BlockBody:
    @module_class("ContextBlock", x="B T dim", context="B L context_dim")
    def forward(b: Builder, x: Var, context: Var, *mask: Var, dim: int, context_dim: int, heads: int) -> Var:
        """Self-attention, attention to the context [B, L, context_dim], a gated feed-forward."""
        h = b.sub("attention", _self_attention, _normalised(b, "norm1", x), out="h", dim=dim, heads=heads)
        x = b.add(x, h, out="x")
        operands, sizes = (_normalised(b, "norm2", x), context, *mask), {"dim": dim, "context_dim": context_dim}
        x = b.add(x, b.sub("cross_attention", _cross_attention, *operands, out="h", **sizes, heads=heads), out="x")
        h = b.sub(
            "feed_forward", _feed_forward, _normalised(b, "norm3", x), out="h", dim=dim, hidden=config.ratio * dim
        )
        return b.add(x, h, out="x")

    return forward


@module_class("Attention", x="B T dim")
def _self_attention(b: Builder, x: Var, *, dim: int, heads: int) -> Var:
    """Multi-head self-attention."""
    q, k, v = b.split(b.dense("qkv", x, 3 * dim, bias=False, out="qkv"), axis=2, sizes=(dim, dim, dim), out="q k v")
    return _attended(b, q, k, v, (), heads)


@module_class("CrossAttention", x="B T dim", context="B L context_dim")
def _cross_attention(b: Builder, x: Var, context: Var, *mask: Var, dim: int, context_dim: int, heads: int) -> Var:
    """Multi-head attention of x [B, T, dim] to the context [B, L, context_dim]."""
    q = b.dense("q", x, dim, bias=False, out="q")
    k, v = b.split(b.dense("kv", context, 2 * dim, bias=False, out="kv"), axis=2, sizes=(dim, dim), out="k v")
    return _attended(b, q, k, v, mask, heads)


@module_class("GatedFeedForward", x="B T dim")
def _feed_forward(b: Builder, x: Var, *, dim: int, hidden: int) -> Var:
    """fc2(h * gelu(gate)), h and gate of one layer (Shazeer 2020, arXiv:2002.05202)."""
    h, gate = b.split(b.dense("fc1", x, 2 * hidden, out="h"), axis=2, sizes=(hidden, hidden), out="h gate")
    return b.dense("fc2", h * b.gelu(gate, approximate="none"), dim, out="h")


def _normalised(b: Builder, name: str, x: Var) -> Var:
    params = [b.param(f"{name}.weight", f32(x.shape[-1]), "ones"), b.param(f"{name}.bias", f32(x.shape[-1]), "zeros")]
    return b.layer_norm(x, *params, eps=1e-5, out="h")


def _attended(b: Builder, q: Var, k: Var, v: Var, mask: tuple[Var, ...], heads: Any) -> Var:
    """Attention of q [B, T, C] by heads to k and v [B, L, C] where the mask [B, L] is true, projected."""
    channels = q.shape[-1]
    seen = [b.reshape(m, shape=(m.shape[0], 1, 1, m.shape[1]), out="seen") for m in mask]
    parts = (split_heads(b, x, heads, channels // heads, label) for x, label in zip((q, k, v), "qkv", strict=True))
    h = b.attention(*parts, *seen, causal=False, scale=None, out="h")
    h = joined_heads(b, h, channels, out="h")
    return b.dense("proj", h, channels, out="h")
