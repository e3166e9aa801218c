"""Parts of autoencoders whose transformers read patches of images or video: their positions, and patches as pixels.

Symbols: B batch, C channels, T patches or tokens, D width; a grid is patches along frames, rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.layers import batch_norm
from latentc.components.parts import dense
from latentc.ir.builder import Builder, Var, f32

if TYPE_CHECKING:
    from latentc.components.networks.query_autoencoder import QueryAutoencoder

Place = Literal["patches", "queries", "latents", "outputs"]
"""Tokens that have positions: patches and queries of the encoder, latents and output queries of the decoder."""
LatentNorm = Literal["layer", "layer_whole", "batch", "batch_whole"]
"""Norm of what the bottleneck takes: over the channels of a token, or of all tokens; by the batch, of each channel."""
Grid = tuple[int, int, int]


def patches_of(shape: Sequence[int], frames: int, patch: int) -> Grid:
    """The grid of patches of a sample [C, F, H, W] or [C, H, W]."""
    return (shape[1] if len(shape) == 4 else 1) // frames, shape[-2] // patch, shape[-1] // patch


def positions_of(b: Builder, place: Place, sizes: tuple[int, ...], width: Any, config: QueryAutoencoder) -> Var:
    """f32[1, T, D]: embeddings of places of a sequence (`sizes`: T) or of a grid."""
    learned, name = config.learns(place), place
    if place in config.stored or len(sizes) == 1:
        length = sizes[0] if len(sizes) == 1 else math.prod(sizes)
        if learned:
            at = b.param(f"{name}_positions", f32(1, length, width), "normal", std=0.02)
        else:
            of = {"width": width, "length": length, "base": config.base}
            kind = "state" if place in config.stored else "buffer"
            at = b.param(f"{name}_positions", f32(1, length, width), "sincos_1d", kind, **of)
    else:
        frames, side, _ = sizes
        if learned:
            time = b.param(f"{name}_time", f32(1, frames, 1, 1, width), "normal", std=0.02)
            rows = b.param(f"{name}_rows", f32(1, 1, side, 1, width), "normal", std=0.02)
            columns = b.param(f"{name}_columns", f32(1, 1, 1, side, width), "normal", std=0.02)
            at = b.add(b.add(rows, columns), time, out="at")
            at = b.reshape(at, shape=(1, frames * side**2, width), out="at")
        else:
            at = waves(b, name, frames, side, width)
    if config.types(place):
        at = b.add(at, b.param(f"{name}_type", f32(1, 1, width), "normal", std=0.02), out="at")
    return at


def waves(b: Builder, name: str, frames: int, side: int, width: Any) -> Var:
    """f32[1, T, D]: sines and cosines of the frame, the row and the column of each patch."""
    of = {"width": width, "length": frames, "base": 10000.0}
    time = b.param(f"{name}_time", f32(1, frames, 1, width), "sincos_1d", "buffer", **of)
    cells = b.param(f"{name}_cells", f32(1, side**2, width), "sincos_2d", "buffer", width=width, grid=side)
    at = b.add(b.reshape(cells, shape=(1, 1, side**2, width)), time, out="at")
    return b.reshape(at, shape=(1, frames * side**2, width), out="at")


def embedded(b: Builder, x: Var, kernel: Grid, width: Any, count: Any) -> Var:
    """Patches of x f32[B, C, F, H, W] or f32[B, C, H, W] as `count` tokens f32[B, T, D]."""
    batch, space = x.shape[0], tuple(x.shape[2:])
    if len(space) == 2:
        space = (1, *space)
        x = b.reshape(x, shape=(batch, x.shape[1], *space), out="x")
    weight = b.param("x_embedder.weight", f32(width, x.shape[1], *kernel), "xavier_uniform", of="matrix")
    x = b.conv(x, weight, b.param("x_embedder.bias", f32(width), "zeros"), stride=kernel, out="x")
    return b.transpose(b.reshape(x, shape=(batch, width, count)), perm=(0, 2, 1), out="x")


def from_patches(b: Builder, x: Var, channels: Any, grid: Grid, kernel: Grid, space: tuple[int, ...]) -> Var:
    """Tokens x f32[B, T, D], each a patch of size `kernel`, as f32[B, C, *space]."""
    batch = x.shape[0]
    x = dense(b, "output", x, math.prod(kernel) * channels, True, "zeros", out="x")
    x = b.reshape(x, shape=(batch, *grid, *kernel, channels))
    x = b.transpose(x, perm=(0, 7, 1, 4, 2, 5, 3, 6), out="x")
    return b.reshape(x, shape=(batch, channels, *space), out="x")


def norm_sizes(norm: LatentNorm | None, tokens: int) -> dict[str, int]:
    """Sizes for name maps: tokens whose channels it tells apart, and whether it is a layer norm over them all."""
    return {"norm_tokens": tokens if norm in ("layer_whole", "batch_whole") else 1, "whole": int(norm == "layer_whole")}


def normed(b: Builder, x: Var, norm: LatentNorm) -> Var:
    """Latents x f32[B, N, Z], normalised as `norm` says."""
    batch, tokens, channels = x.shape
    name, eps = "latent_norm", 1e-5
    if norm == "layer":
        return LayerNorm(kind="layer_norm", eps=eps, affine=True).apply(b, name, x)
    if norm == "batch":
        rows = b.reshape(x, shape=(batch * tokens, channels, 1, 1), out="rows")
        return b.reshape(batch_norm(b, name, rows, True, eps, out="x"), shape=x.shape, out="x")
    each = tokens * channels
    if norm == "layer_whole":
        flat = LayerNorm(kind="layer_norm", eps=eps, affine=True).apply(b, name, b.reshape(x, shape=(batch, each)))
    else:
        flat = batch_norm(b, name, b.reshape(x, shape=(batch, each, 1, 1), out="whole"), True, eps, out="x")
    return b.reshape(flat, shape=x.shape, out="x")


def shortened(b: Builder, z: Var, u: Var, lengths: Sequence[int], latent: Any, tokens: Any) -> Var:
    """Latents [B, Z, N, ...], of which one of `lengths` is kept, drawn by numbers u [B] between 0 and 1."""
    which = b.minimum(b.cast(u * float(len(lengths)), to="i64"), len(lengths) - 1, out="which")
    kept = b.take(b.constant(list(lengths), "i64", out="lengths"), which, axis=0, out="kept")
    kept = b.reshape(kept, shape=(kept.shape[0], 1, 1), out="kept")
    seen = b.less(b.reshape(b.arange(tokens), shape=(1, 1, tokens)), kept, out="seen")
    others = b.param("mask_token", f32(1, 1, latent), "zeros")
    others = b.reshape(others, shape=(1, latent, 1), out="others")
    flat = b.reshape(z, shape=(z.shape[0], latent, tokens), out="z")
    return b.reshape(b.where(seen, flat, others), shape=z.shape, out="z")


def filled_up(b: Builder, x: Var, frames: int) -> Var:
    """A video x [B, C, F, H, W] of `frames`, the last of which repeat its own last one."""
    given = int(x.shape[2])
    if given == frames:
        return x
    last = b.slice(x, axis=2, start=given - 1, stop=given, out="last")
    last = b.broadcast_to(last, x, shape=(*x.shape[:2], frames - given, *x.shape[3:]), out="last")
    return b.concat(x, last, axis=2, out="x")
