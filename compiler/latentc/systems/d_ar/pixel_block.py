"""A block of the pixel decoder: conditions reach tokens by attention, which modulates them one by one.

Symbols: B batch, T tokens, n conditions, D width, H heads, d channels of a head, E rotary pairs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from latentc.components.blocks.block import Block
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.conditions.timestep import Timestep
from latentc.components.decoding import Given
from latentc.components.parts import Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class

PLAIN = LayerNorm(kind="layer_norm", eps=1e-6)


@cache
def reading(norm: Norm | None, init: str) -> BlockBody:
    """Attention of tokens, rotated to their places, to conditions; a norm of queries and keys per head."""

    @module_class("ConditionAttention", x="B T dim", cond="B N dim")
    def attention(b: Builder, x: Var, cond: Var, cos: Var, sin: Var, *, dim: int, heads: int) -> Var:
        """Multi-head attention of x [B, T, D] to conditions [B, N, D]."""
        q = split_heads(b, dense(b, "q", x, dim, True, init, out="q"), heads, dim // heads, "q")
        k, v = b.split(dense(b, "kv", cond, 2 * dim, True, init, out="kv"), axis=2, sizes=(dim, dim), out="k v")
        k, v = (split_heads(b, part, heads, dim // heads, label) for part, label in ((k, "k"), (v, "v")))
        if norm is not None:
            q, k = norm.apply(b, "q_norm", q), norm.apply(b, "k_norm", k)
        h = b.attention(b.rotary(q, cos, sin, interleaved=True, out="q"), k, v, causal=False, scale=None, out="h")
        return dense(b, "proj", joined_heads(b, h, dim), dim, True, init, out="x")

    return attention


@cache
def pixel_block(block: Block, norm: Norm | None, frequencies: int, init: str) -> BlockBody:
    """The block, whose attention and feed-forward are those of `block`."""
    mixer, feed_forward, _, _ = block.parts()
    embedding = Timestep(kind="timestep", frequencies=frequencies)

    @module_class("PixelBlock", x="B T dim", cond="B N dim")
    def body(b: Builder, x: Var, cond: Var, t: Var, cos: Var, sin: Var, *, dim: int, **static: Any) -> Var:
        """Tokens [B, T, D] modulated by time and by the conditions [B, N, D] that each attends to."""
        heads = block.heads(static)
        time = b.reshape(embedding.vector(b, "t_embedder", t, dim), shape=(t.shape[0], 1, dim), out="time")
        cond = dense(b, "cond_fc2", b.silu(dense(b, "cond_fc1", cond, dim, True, init)), dim, True, init)
        cond = PLAIN.apply(b, "cond_norm", cond)
        seen = b.sub("cross_attn", reading(norm, init), PLAIN.apply(b, "norm", x), cond, cos, sin, dim=dim, heads=heads)
        s = b.silu(b.add(seen, time, out="s"))
        modulation = dense(b, "adaLN", s, 6 * dim, True, "zeros", out="modulation")
        names = "shift_msa scale_msa gate_msa shift_mlp scale_mlp gate_mlp"
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = b.split(modulation, axis=2, sizes=(dim,) * 6, out=names)
        h = PLAIN.apply(b, "norm", x) * (scale + 1.0) + shift
        own = mixer.own(dim, static)
        (h,) = mixer.apply(b, "attn", h, init, Given(rotary=(cos, sin)), dim=dim, **own)
        x = x + gate * h
        h = PLAIN.apply(b, "norm", x) * (scale_mlp + 1.0) + shift_mlp
        fed = feed_forward.apply(b, "mlp", h, init, dim=dim, **{k: static[k] for k in feed_forward.static(dim)})
        return x + gate_mlp * fed

    return body
