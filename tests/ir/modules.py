"""Small modules that several tests take apart."""

import numpy as np

from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.types import B, Named, f32, i64
from latentc.ir.verify import verify


@module_class("Attention")
def attention(b, x, *, dim, heads):
    """Self-attention."""
    batch, tokens, _ = x.shape
    qkv = b.reshape(b.dense("qkv", x, 3 * dim), shape=(batch, tokens, 3, heads, dim // heads))
    q, k, v = b.unbind(b.transpose(qkv, perm=(2, 0, 3, 1, 4)), axis=0, out="q k v")
    out = b.transpose(b.attention(q, k, v, causal=False, scale=None), perm=(0, 2, 1, 3))
    return b.dense("proj", b.reshape(out, shape=(batch, tokens, dim)), dim)


@module_class("Net")
def net(b, x, y, *, dim, depth):
    """Attention over tokens that know their class: "x", \\ and\na second line."""
    c = b.embedding(b.param("classes.weight", f32(11, dim), "normal", std=0.02), y)
    x = x + b.reshape(c, shape=(c.shape[0], 1, dim)) + b.param("bias", f32(dim), "zeros", kind="buffer")
    for i in range(depth):
        x = x + b.sub(f"blocks.{i}", attention, b.dropout(x, p=0.1), dim=dim, heads=2)
    return x


def sampler(depth=2, steps=3):
    """A network and a guided loop over it, with a table and a scanned output."""
    mb = ModuleBuilder()
    fn = mb.define(net, [f32(B, Named(4, "T"), 8), i64(B)], {"dim": 8, "depth": depth})
    b = mb.function("sample")
    x, y, scale = b.input("x", f32(B, Named(4, "T"), 8)), b.input("y", i64(B)), b.input("scale", f32(B))
    null = b.full(y, shape=(), value=10, dtype="i64")
    table = b.constant(np.linspace(1, 0.1, steps))

    def body(b, i, invariants, carried, rows):
        (y, null, scale), (x,), (a,) = invariants, carried, rows
        e = b.guided(fn, "main", [x, y], ["shared", "conditional"], [null], scale)
        return [x * a + e * 0.1], [b.mean(x, axes=(1, 2), keepdims=False)]

    x, means = b.loop("sample.step", steps, body, invariants=[y, null, scale], carried=[x], tables=[table])
    b.output(x, means)
    mb.entries = {"main": fn, "sample": b.finish()}
    return verify(mb.finish())
