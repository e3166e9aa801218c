"""The base of decoders of pixels: each pixel begins as its colour and place in its patch, and ends as a colour.

Symbols: B batch, C channels, T patches, P patch side, Q = P^2 pixels of a patch, F frequencies, D width of the
encoder, W width of the decoder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from latentc.components.kit.patches import unpatchify
from latentc.components.parts import dense
from latentc.ir.builder import Builder, Var, f32
from latentc.systems.ddt.condition_encoder import EncodedCondition


class PixelDecoder(EncodedCondition):
    """A network whose decoder `refines` the pixels of each patch, given the patch's condition."""

    decoder_depth: int = Field(gt=0, le=512, description="number of layers of the decoder")
    pixel_width: int = Field(64, gt=0, le=4_096, description="channels of a pixel in the decoder (W)")
    frequencies: int = Field(8, gt=1, le=256, description="frequencies of a pixel's place along each axis")

    SIZES: ClassVar[dict[str, Any]] = {
        "width": 16,
        "depth": 2,
        "decoder_depth": 1,
        "pixel_width": 4,
        "frequencies": 3,
        "patch": 4,
        "positions": {"kind": "spread_rope_2d"},
        "block": EncodedCondition.BLOCK,
    }
    """The example of such a network, without its kind."""

    @abstractmethod
    def refined(self, b: Builder, x: Var, s: Var, sizes: Mapping[str, Any]) -> Var:
        """The prediction [B, T, Q, C_out] from pixels x [B, T, Q, W] and the condition s [B, T, D] of their patch."""

    def decoder_sizes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("decoder_depth", "pixel_width", "frequencies")}

    def decoded(self, b: Builder, patches: Var, s: Var, sizes: Mapping[str, Any]) -> Var:
        x = _embedded_pixels(b, patches, sizes["pixel_width"], sizes)
        return _image_of_pixels(b, self.refined(b, x, s, sizes), sizes)


def _embedded_pixels(b: Builder, patches: Var, width: Any, sizes: Mapping[str, Any]) -> Var:
    """f32[B, T, C Q] -> f32[B, T, Q, W]: a linear map of each pixel's colour and cosines of its place in the patch."""
    batch, tokens, _ = patches.shape
    patch, channels, frequencies = sizes["patch"], sizes["channels"], sizes["frequencies"]
    x = b.reshape(patches, shape=(batch, tokens, channels, patch**2))
    x = b.transpose(x, perm=(0, 1, 3, 2), out="pixels")
    table = f32(patch**2, frequencies**2)
    places = b.param("places", table, "cosines_2d", "buffer", grid=patch, frequencies=frequencies)
    places = b.broadcast_to(places, x, shape=(batch, tokens, patch**2, frequencies**2), out="places")
    return dense(b, "x_embedder", b.concat(x, places, axis=3, out="pixels"), width, True, "linear_default", out="x")


def _image_of_pixels(b: Builder, x: Var, sizes: Mapping[str, Any]) -> Var:
    """f32[B, T, Q, C] -> f32[B, C, H, H]."""
    batch, tokens, _, channels = x.shape
    x = b.transpose(x, perm=(0, 1, 3, 2))
    x = b.reshape(x, shape=(batch, tokens, channels * sizes["patch"] ** 2), out="x")
    return unpatchify(b, x, (channels, sizes["size"], sizes["size"]), patch=sizes["patch"])
