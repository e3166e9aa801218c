"""Shared by NVG's two transformers: rotary positions of structure, and blocks of parallel branches.

Symbols: B batch, T tokens, L positions, K stages, D width, H heads, d channels of a head.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.parts import dense
from latentc.ir.builder import Builder, Var, f32, module_class

BASE = 10000.0
EPS = 1e-6


def angles(b: Builder, structure: Var, of_kind: int, of_space: int, kind: int) -> Var:
    """f32[B, L, d / 2]: what pairs of channels of L tokens turn by (section 2.2.2).

    The first `of_kind` channels of a head tell kinds of tokens apart (0: what is generated; 2: the canvas of the flow),
    two turn with each number of the structure embedding f32[B, L, K], and `of_space` each with row and column.
    """
    batch, count, _ = structure.shape
    rows, columns = np.divmod(np.arange(int(count)), round(int(count) ** 0.5))
    space = np.concatenate([place[:, None] * _frequencies(of_space) for place in (rows, columns)], axis=1)
    cond = b.constant(kind * _frequencies(of_kind), "f32", out="kind")
    cond = b.broadcast_to(cond, structure, shape=(batch, count, of_kind // 2), out="kind")
    place = b.broadcast_to(b.constant(space, "f32", out="place"), structure, shape=(batch, count, of_space))
    return b.concat(cond, structure, place, axis=2, out="angles")


def angles_of_class(b: Builder, like: Var, of_kind: int, of_space: int, stages: int) -> Var:
    """f32[B, 1, d / 2]: those of the class, each of whose positions is 1."""
    every = [_frequencies(of_kind), np.ones(stages), _frequencies(of_space), _frequencies(of_space)]
    row = b.constant(np.concatenate(every)[None], "f32", out="row")
    return b.broadcast_to(row, like, shape=(like.shape[0], *row.shape), out="of_class")


def _frequencies(channels: int) -> Any:
    return BASE ** (-np.arange(0, channels, 2) / channels)


def turned(b: Builder, x: Var, turn: Var, out: str) -> Var:
    """x f32[B, H, T, d], pairs of neighbours turned by f32[B, T, d / 2]."""
    batch, heads, tokens, size = x.shape
    shape = (batch, 1, tokens, size // 2)
    cos, sin = (b.reshape(f(turn), shape=shape, out=name) for f, name in ((b.cos, "cos"), (b.sin, "sin")))
    pairs = b.reshape(x, shape=(batch, heads, tokens, size // 2, 2))
    even, odd = (
        b.reshape(part, shape=(batch, heads, tokens, size // 2)) for part in b.split(pairs, axis=4, sizes=(1, 1))
    )
    columns = (even * cos - odd * sin, odd * cos + even * sin)
    wide = (b.reshape(c, shape=(batch, heads, tokens, size // 2, 1)) for c in columns)
    return b.reshape(b.concat(*wide, axis=4), shape=(batch, heads, tokens, size), out=out)


@module_class("ParallelBlock")
def parallel_block(b: Builder, x: Var, c: Var, turn: Var, *, dim: int, heads: int, hidden: int, **training: Var) -> Var:
    """Attention and MLP side by side (FLUX; Dehghani et al. 2023), scaled, shifted and gated by c [B, D]."""
    modulation = dense(b, "modulation", b.silu(c), 3 * dim, True, "xavier", out="modulation")
    modulation = b.reshape(modulation, shape=(c.shape[0], 1, 3 * dim), out="modulation")
    shift, scale, gate = b.split(modulation, axis=2, sizes=(dim, dim, dim), out="shift scale gate")
    h = b.layer_norm(x, eps=EPS) * (scale + 1.0) + shift
    h = dense(b, "linear1", h, 3 * dim + hidden, True, "xavier", out="h")
    q, k, v, mlp = b.split(h, axis=2, sizes=(dim, dim, dim, hidden), out="q k v mlp")
    size = dim // heads
    q, k, v = (split_heads(b, part, heads, size, name) for part, name in ((q, "q"), (k, "k"), (v, "v")))
    q = turned(b, b.rms_norm(q, b.param("q_norm.weight", f32(size), "ones"), eps=EPS), turn, "q")
    k = turned(b, b.rms_norm(k, b.param("k_norm.weight", f32(size), "ones"), eps=EPS), turn, "k")
    h = joined_heads(b, b.attention(q, k, v, causal=False, scale=None), dim, out="h")
    h = b.concat(h, b.gelu(mlp, approximate="tanh"), axis=2, out="h")
    return x + dropped(b, gate * dense(b, "linear2", h, dim, True, "xavier"), training)


@module_class("ModulatedLinear")
def modulated_linear(b: Builder, x: Var, c: Var, *, dim: int, features: int) -> Var:
    """Normalises tokens, scales and shifts them by c [B, D], and projects them."""
    modulation = dense(b, "modulation", b.silu(c), 2 * dim, True, "xavier", out="modulation")
    modulation = b.reshape(modulation, shape=(c.shape[0], 1, 2 * dim), out="modulation")
    shift, scale = b.split(modulation, axis=2, sizes=(dim, dim), out="shift scale")
    return dense(b, "linear", b.layer_norm(x, eps=EPS) * (scale + 1.0) + shift, features, True, "xavier")
