"""DeCo: a decoder of pixels, modulated at each of them by a condition encoder.

Symbols: B batch, C channels, T patches, P patch side, Q = P^2 pixels of a patch, D width of the encoder, W width of the
decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks.token_mlp import modulated_block
from latentc.components.parts import dense
from latentc.ir.builder import Builder, Var, items
from latentc.systems.pixnerd.pixel_decoder import PixelDecoder


class DecoTransformer(PixelDecoder):
    """Transformer with a decoder of pixels (Ma et al. 2025, arXiv:2511.19365).

    Takes x f32[B, C, H, W], t f32[B] and conditions as vectors; returns f32[B, C_out, H, W]. An encoder of `depth`
    blocks makes a condition for each patch, and a linear map of it a condition for each pixel, which modulates
    `decoder_depth` residual blocks of two linear layers.
    """

    kind: Literal["deco_transformer"]
    pixel_width: int = Field(32, gt=0, le=4_096, description="channels of a pixel in the decoder (W)")
    CLASS_NAME: ClassVar[str] = "DeCo"
    EXAMPLE: ClassVar[dict[str, Any]] = {**PixelDecoder.SIZES, "kind": "deco_transformer"}

    def refined(self, b: Builder, x: Var, s: Var, sizes: Mapping[str, Any]) -> Var:
        width, pixels = sizes["pixel_width"], sizes["patch"] ** 2
        batch, tokens, _ = s.shape
        x = dense(b, "input_proj", x, width, True, "xavier", out="x")
        c = dense(b, "cond_embed", s, pixels * width, True, "xavier", out="c")
        c = b.reshape(c, shape=(batch, tokens, pixels, width), out="c")
        for name in items("res_blocks", sizes["decoder_depth"]):
            x = b.sub(name, modulated_block, x, c, dim=width)
        return dense(b, "linear", b.layer_norm(x, eps=1e-6), sizes["out_channels"], True, "zeros", out="x")
