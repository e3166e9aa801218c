"""Self-attention over the pixels of a feature map, as SAGAN and BigGAN have it."""

from __future__ import annotations

from functools import cache

from latentc.components import layers
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


@cache
def self_attention_2d(init: str, spectral: bool) -> BlockBody:
    """The block of SAGAN (Zhang et al. 2018, arXiv:1805.08318) with BigGAN's pooled keys and values."""

    @module_class("SelfAttention2d", x="B channels H W")
    def attention(b: Builder, x: Var, *, channels: int) -> Var:
        """Each pixel of x [B, C, H, W] attends to the maxima of squares of two; added by a gate that starts at 0."""
        batch, _, rows, columns = x.shape
        pixels, keys = rows * columns, (rows // 2) * (columns // 2)
        narrow, half = channels // 8, channels // 2

        def conv(name: str, h: Var, features: int) -> Var:
            return layers.conv(b, name, h, features, 1, init, bias=False, spectral=spectral, out=name)

        theta = b.reshape(conv("theta", x, narrow), shape=(batch, narrow, pixels), out="theta")
        phi = b.reshape(b.max_pool(conv("phi", x, narrow), size=2), shape=(batch, narrow, keys), out="phi")
        g = b.reshape(b.max_pool(conv("g", x, half), size=2), shape=(batch, half, keys), out="g")
        beta = b.softmax(b.matmul(b.transpose(theta, perm=(0, 2, 1)), phi), axis=2, out="beta")  # [B, pixels, keys]
        h = b.reshape(b.matmul(g, b.transpose(beta, perm=(0, 2, 1))), shape=(batch, half, rows, columns))
        gamma = b.param("gamma", f32(), "zeros")
        return gamma * conv("o", h, channels) + x

    return attention
