"""The transformers of TiTok's tokenizer: from patches and queries to latents, and from latents back to patches.

Symbols: B batch, C channels, H side of the image, T patches, N tokens, D width, Z channels of the latents, V proxy
codes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from latentc.components.blocks.block import Block
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.kit.patches import embedded_patches, image
from latentc.components.layers import conv
from latentc.components.parts import Weights, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class

NORM = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)


def _learned(b: Builder, name: str, rows: Any, width: Any) -> Var:
    """f32[1, rows, D]: learned vectors, which start with a deviation of D^-0.5."""
    vectors = b.param(name, f32(rows, width), "kaiming_normal", gain=1.0)
    return b.reshape(vectors, shape=(1, rows, width), out=name)


def _repeated(b: Builder, vectors: Var, like: Var, rows: Any) -> Var:
    """f32[B, rows, D]: vectors f32[1, 1 or rows, D] of every sample."""
    return b.broadcast_to(vectors, like, shape=(like.shape[0], rows, vectors.shape[2]), out="rows")


def _blocks(b: Builder, block: Block, init: Weights, x: Var, depth: Any, width: Any, own: dict[str, Any]) -> Var:
    """Tokens x f32[B, N, D] through a norm and so many blocks."""
    mixer, feed_forward, norm, condition = block.parts()
    body = condition.block(mixer, feed_forward, norm, init)
    x = NORM.apply(b, "input_norm", x)
    for name in items("blocks", depth):
        x = b.sub(name, body, x, dim=width, **own)
    return x


@cache
def token_encoder(block: Block, init: Weights, misordered: bool) -> BlockBody:
    """Images f32[B, C, H, H] -> vectors f32[B, `outputs`, N] of N queries behind a class token and the patches."""

    @module_class("TokenEncoder", x="B channels size size")
    def forward(
        b: Builder,
        x: Var,
        *,
        channels: int,
        size: int,
        patch: int,
        tokens: int,
        width: int,
        depth: int,
        outputs: int,
        **own: Any,
    ) -> Var:
        """Vectors [B, outputs, N] of images x [B, C, H, H]."""
        batch, grid = x.shape[0], size // patch
        count = grid**2
        x = embedded_patches(b, "x_embedder", x, width, patch, init, count)
        first = _repeated(b, _learned(b, "cls_token", 1, width), x, 1)
        x = b.concat(first, x, axis=1, out="x") + _learned(b, "positions", count + 1, width)
        queries = _learned(b, "queries", tokens, width) + _learned(b, "query_positions", tokens, width)
        x = b.concat(x, _repeated(b, queries, x, tokens), axis=1, out="x")
        x = _blocks(b, block, init, x, depth, width, own)
        x = b.slice(x, axis=1, start=count + 1, stop=count + 1 + tokens, out="x")
        x = NORM.apply(b, "output_norm", b.reshape(x, shape=(batch, tokens, width), out="x"))
        if misordered:
            x = b.transpose(b.reshape(x, shape=(batch, width, tokens)), perm=(0, 2, 1), out="x")
        h = dense(b, "to_latents", x, outputs, True, init, out="h")
        return b.transpose(h, perm=(0, 2, 1), out="h")

    return forward


@cache
def token_decoder(block: Block, init: Weights, proxies: bool) -> BlockBody:
    """Latents f32[B, Z, N] -> logits f32[B, T, V] of a proxy code for each patch, or images f32[B, C, H, H]."""

    @module_class("TokenDecoder", z="B latent tokens")
    def forward(
        b: Builder,
        z: Var,
        *,
        latent: int,
        size: int,
        patch: int,
        tokens: int,
        width: int,
        depth: int,
        outputs: int,
        **own: Any,
    ) -> Var:
        batch, grid = z.shape[0], size // patch
        count = grid**2
        z = dense(b, "from_latents", b.transpose(z, perm=(0, 2, 1)), width, True, init, out="z")
        z = z + _learned(b, "latent_positions", tokens, width)
        first = _repeated(b, _learned(b, "cls_token", 1, width), z, 1)
        masks = _repeated(b, _learned(b, "mask_token", 1, width), z, count)
        x = b.concat(first, masks, axis=1, out="x") + _learned(b, "positions", count + 1, width)
        x = _blocks(b, block, init, b.concat(x, z, axis=1, out="x"), depth, width, own)
        x = b.slice(x, axis=1, start=1, stop=count + 1, out="x")
        x = NORM.apply(b, "output_norm", b.reshape(x, shape=(batch, count, width), out="x"))
        if proxies:
            x = b.tanh(dense(b, "head", x, 2 * width, True, init), out="x")
            return dense(b, "output", x, outputs, True, init, out="logits")
        x = dense(b, "output", x, patch * patch * outputs, True, init, out="x")
        return conv(b, "conv_out", image(b, x, outputs, grid, patch, size, out="x"), outputs, 3, init)

    return forward
