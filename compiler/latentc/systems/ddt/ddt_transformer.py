"""DDT: a transformer decoder on the condition of an encoder branch.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.kit.patches import unpatchify
from latentc.components.networks.patch_transformer import modulated
from latentc.components.parts import BlockCondition, Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.systems.ddt.condition_encoder import EncodedCondition


class DdtTransformer(EncodedCondition):
    """Transformer in two parts (Wang et al. 2025, arXiv:2504.05741).

    Takes x f32[B, C, H, W], t f32[B] and conditions as vectors; returns f32[B, C_out, H, W]. An encoder of `depth`
    blocks turns the patches into a condition for each; `decoder_depth` blocks, modulated by it, predict from the
    patches. Both have the same width and kind of block.
    """

    kind: Literal["ddt_transformer"]
    decoder_depth: int = Field(gt=0, le=512, description="number of blocks of the decoder")
    CLASS_NAME: ClassVar[str] = "DDT"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "ddt_transformer",
        "width": 16,
        "depth": 2,
        "decoder_depth": 1,
        "patch": 4,
        "positions": {"kind": "spread_rope_2d"},
        "block": EncodedCondition.BLOCK,
    }

    def decoder_sizes(self) -> dict[str, Any]:
        return {"decoder_depth": self.decoder_depth}

    def decoded(self, b: Builder, patches: Var, s: Var, sizes: Mapping[str, Any]) -> Var:
        block, width = self.blocks_of("Decoder"), sizes["width"]
        x = dense(b, "x_embedder", patches, width, True, "xavier", out="x")
        rotary = self.turned(b, sizes, width)
        for name in items("blocks", sizes["decoder_depth"]):
            x = b.sub(name, block, x, s, *rotary, dim=width, **self.block.own(width, sizes))
        ends = {name: sizes[name] for name in ("size", "patch", "out_channels")}
        return b.sub(
            "final_layer", final_layer(self.block.parts()[3], LayerNorm(kind="layer_norm")), x, s, dim=width, **ends
        )  # type: ignore[no-any-return]


@cache
def final_layer(condition: BlockCondition, norm: Norm) -> BlockBody:
    """The last layer of a decoder with tokens x [B, T, D] and their condition s [B, T, D]."""

    @module_class("FinalLayer")
    def final(b: Builder, x: Var, s: Var, *, dim: int, size: int, patch: int, out_channels: int) -> Var:
        """Normalises, modulates and projects the tokens, then lays the patches [C, P, P] out as an image."""
        x = modulated(b, condition, norm, x, s, dim)
        x = dense(b, "linear", x, out_channels * patch**2, True, "zeros", out="x")
        return unpatchify(b, x, (out_channels, size, size), patch=patch)

    return final
