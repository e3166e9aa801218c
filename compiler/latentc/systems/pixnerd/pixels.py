"""Pixels of patches with features of their places: what decoders in pixels begin with.

Symbols: B batch, C channels, T patches, P patch side, Q = P^2 pixels of a patch, F frequencies, W width.
"""

from __future__ import annotations

from typing import Any

from latentc.components.kit.patches import unpatchify
from latentc.components.parts import dense
from latentc.ir.builder import Builder, Var, f32


def embedded_pixels(b: Builder, patches: Var, width: Any, sizes: Any) -> Var:
    """f32[B, T, C Q] -> f32[B, T, Q, W]: a linear map of each pixel's colour and cosines of its place in the patch."""
    batch, tokens, _ = patches.shape
    patch, channels, frequencies = sizes["patch"], sizes["channels"], sizes["frequencies"]
    x = b.reshape(patches, shape=(batch, tokens, channels, patch**2))
    x = b.transpose(x, perm=(0, 1, 3, 2), out="pixels")
    table = f32(patch**2, frequencies**2)
    places = b.param("places", table, "cosines_2d", "buffer", grid=patch, frequencies=frequencies)
    places = b.broadcast_to(places, x, shape=(batch, tokens, patch**2, frequencies**2), out="places")
    return dense(b, "x_embedder", b.concat(x, places, axis=3, out="pixels"), width, True, "linear_default", out="x")


def image_of_pixels(b: Builder, x: Var, sizes: Any) -> Var:
    """f32[B, T, Q, C] -> f32[B, C, H, H]."""
    batch, tokens, _, channels = x.shape
    x = b.transpose(x, perm=(0, 1, 3, 2))
    x = b.reshape(x, shape=(batch, tokens, channels * sizes["patch"] ** 2), out="x")
    return unpatchify(b, x, (channels, sizes["size"], sizes["size"]), patch=sizes["patch"])
