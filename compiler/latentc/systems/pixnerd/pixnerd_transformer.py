"""PixNerd: an implicit function of pixels for each patch, whose weights come from a condition encoder.

Symbols: B batch, C channels, T patches, P patch side, Q = P^2 pixels of a patch, D width of the encoder, W width of the
implicit function.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.systems.pixnerd.pixel_decoder import PixelDecoder

LEAST = 1e-12
"""Least length that columns of generated weights are divided by."""


class PixnerdTransformer(PixelDecoder):
    """Transformer with a neural field per patch (Wang et al. 2025, arXiv:2507.23268).

    Takes x f32[B, C, H, W], t f32[B] and conditions as vectors; returns f32[B, C_out, H, W]. An encoder of `depth`
    blocks makes a condition for each patch; `decoder_depth` residual layers over the patch's pixels have weights that
    linear maps generate from it.
    """

    kind: Literal["pixnerd_transformer"]
    ratio: int = Field(
        2, gt=0, le=64, description="hidden channels of a generated layer as a multiple of `pixel_width`"
    )
    CLASS_NAME: ClassVar[str] = "PixNerd"
    EXAMPLE: ClassVar[dict[str, Any]] = {**PixelDecoder.SIZES, "kind": "pixnerd_transformer"}

    def decoder_sizes(self) -> dict[str, Any]:
        return {**super().decoder_sizes(), "ratio": self.ratio}

    def refined(self, b: Builder, x: Var, s: Var, sizes: Mapping[str, Any]) -> Var:
        width, norm = sizes["pixel_width"], self.block.parts()[2]
        own = {"dim": width, "features": sizes["width"], "hidden": width * sizes["ratio"]}
        for name in items("blocks", sizes["decoder_depth"]):
            x = b.sub(name, _layer(norm), x, s, **own)
        return dense(b, "linear", norm.apply(b, "norm", x), sizes["out_channels"], True, "zeros", out="x")


@cache
def _layer(norm: Norm) -> BlockBody:
    @module_class("FieldLayer", x="B T Q dim", s="B T features")
    def layer(b: Builder, x: Var, s: Var, *, dim: int, features: int, hidden: int) -> Var:
        """A residual layer over pixels x [B, T, Q, W], with weights generated from s [B, T, D] for each patch."""
        batch, tokens, _ = s.shape
        made = dense(b, "generator", s, 2 * dim * hidden, True, "linear_default", out="weights")
        first, second = b.split(made, axis=2, sizes=(dim * hidden, dim * hidden), out="first second")
        first = b.reshape(first, shape=(batch, tokens, dim, hidden), out="first")
        second = b.reshape(second, shape=(batch, tokens, hidden, dim), out="second")
        h = b.silu(b.matmul(norm.apply(b, "norm", x), _unit(b, first)), out="h")
        return x + b.matmul(h, _unit(b, second), out="h")

    return layer


def _unit(b: Builder, weight: Var) -> Var:
    """Weights [B, T, I, O] whose columns over I have length 1."""
    length = b.sqrt(b.maximum(b.sum(weight * weight, axes=(2,), keepdims=True), LEAST**2))
    return b.div(weight, length, out="weight")
