"""Blocks of RIN: attention from one sequence to another, and within one.

Symbols: B batch, T tokens, S tokens that are read, D width (`dim`), H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.parts import dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class


def layer_norm(b: Builder, name: str, x: Var, out: str = "", init: str = "ones") -> Var:
    """Layer normalisation of x [..., D] with a weight that starts as `init` says, and a bias."""
    weight = b.param(f"{name}.weight", f32(x.shape[-1]), init)
    return b.layer_norm(x, weight, b.param(f"{name}.bias", f32(x.shape[-1]), "zeros"), eps=1e-6, out=out)


@dataclass(frozen=True)
class Drops:
    """Dropout rates: of elements after the GELU, and of samples that skip a residual branch."""

    hidden: float = 0.0
    path: float = 0.0

    def branch(self, b: Builder, h: Var) -> Var:
        return b.drop_path(h, self.path, out="h") if self.path else h


NONE = Drops()


def feed_forward(b: Builder, x: Var, hidden: int, bias: bool = True, drops: Drops = NONE) -> Var:
    """Two linear layers `fc1` and `fc2` with GELU between them."""
    h = b.gelu(dense(b, "fc1", x, hidden, bias, "xavier"), approximate="none", out="h")
    h = b.dropout(h, p=drops.hidden, out="h") if drops.hidden else h
    return dense(b, "fc2", h, x.shape[-1], bias, "xavier", out="h")


def _attended(b: Builder, q: Var, k: Var, v: Var, mask: tuple[Var, ...], heads: int) -> Var:
    q, k, v = (split_heads(b, x, heads, x.shape[2] // heads, out) for x, out in ((q, "q"), (k, "k"), (v, "v")))
    x = b.attention(q, k, v, *mask, causal=False, scale=None, out="x")
    return joined_heads(b, x, heads * x.shape[3], out="x")


@cache
def cross_block(bias: bool, masked: bool) -> BlockBody:
    """A block of x [B, T, D] that reads a context [B, S, C], of which a mask bool[B, 1, 1, S] may hide tokens."""

    @module_class("CrossAttention", x="B T dim", context="B S context_dim")
    def attention(
        b: Builder, x: Var, context: Var, *mask: Var, dim: int, context_dim: int, inner: int, heads: int
    ) -> Var:
        """Multi-head attention to another sequence."""
        q = dense(b, "q", x, inner, bias, "xavier", out="q")
        k, v = b.split(dense(b, "kv", context, 2 * inner, bias, "xavier"), axis=2, sizes=(inner, inner), out="k v")
        return dense(b, "proj", _attended(b, q, k, v, mask, heads), dim, bias, "xavier", out="x")

    @module_class("CrossBlock", x="B T dim", context="B S context_dim")
    def block(b: Builder, x: Var, context: Var, *mask: Var, hidden: int, **static: int) -> Var:
        """A pre-norm block that reads another sequence."""
        x = x + b.sub("attn", attention, layer_norm(b, "norm1", x, "h"), context, *mask, **static)  # type: ignore[arg-type]
        return x + feed_forward(b, layer_norm(b, "norm2", x, "h"), hidden, bias)

    return block


@cache
def self_block(bias: bool, scaled: bool, masked: bool, drops: Drops = NONE) -> BlockBody:
    """A block of x [B, T, D], of whose tokens a mask bool[B, 1, 1, T] may hide some; `scaled`: with layer scales."""

    @module_class("SelfAttention")
    def attention(b: Builder, x: Var, *mask: Var, dim: int, heads: int) -> Var:
        """Multi-head self-attention."""
        qkv = dense(b, "qkv", x, 3 * dim, bias, "xavier", out="qkv")
        q, k, v = b.split(qkv, axis=2, sizes=(dim, dim, dim), out="q k v")
        return dense(b, "proj", _attended(b, q, k, v, mask, heads), dim, bias, "xavier", out="x")

    def branch(b: Builder, name: str, x: Var) -> Var:
        return drops.branch(b, x * b.param(name, f32(x.shape[-1]), "constant", value=0.1) if scaled else x)

    @module_class("SelfBlock")
    def block(b: Builder, x: Var, *mask: Var, dim: int, heads: int, hidden: int) -> Var:
        """A pre-norm transformer block."""
        h = b.sub("attn", attention, layer_norm(b, "norm1", x, "h"), *mask, dim=dim, heads=heads)
        x = x + branch(b, "scale1", h)
        return x + branch(b, "scale2", feed_forward(b, layer_norm(b, "norm2", x, "h"), hidden, bias, drops))

    return block


@cache
def rin_block(bias: bool, attends: bool, masked: bool, drops: Drops = NONE) -> BlockBody:
    """Latents [B, L, D] read tokens [B, T, C], work on what they have read, and write into the tokens."""
    cross, within = cross_block(bias, False), self_block(bias, False, False, drops)

    @module_class("RinBlock")
    def block(b: Builder, x: Var, z: Var, *condition: Var, **static: Any) -> tuple[Var, Var]:
        """Latents z read the condition and the tokens x, process them, and write into the tokens."""
        width, dim, inner = static["data_width"], static["width"], static["inner"]
        reading = {"heads": static["heads"], "hidden": static["latent_hidden"]}
        if attends:
            sizes = {"dim": dim, "context_dim": dim, "inner": dim}
            z = b.sub("attend", cross_block(bias, masked), z, *condition, **sizes, **reading)
        z = b.sub("read", cross, z, x, dim=dim, context_dim=width, inner=inner, **reading)
        for name in items("process", static["layers"]):
            z = b.sub(name, within, z, dim=dim, heads=static["compute_heads"], hidden=static["latent_hidden"])
        writing = {"heads": static["heads"], "hidden": static["data_hidden"]}
        x = b.sub("write", cross, x, z, dim=width, context_dim=dim, inner=inner, **writing)
        return x, z

    return block
