"""U-ViT: a transformer over patches, time and conditions as tokens, with long skip connections.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.block import Block
from latentc.components.blocks.unet.layers import conv
from latentc.components.kit.patches import image
from latentc.components.networks._stages import long_skips
from latentc.components.parts import Problem, dense
from latentc.ir.builder import Builder, Var
from latentc.systems.uvit.one_sequence import OneSequence, without_prefix


class Uvit(OneSequence):
    """U-ViT (Bao et al. 2022, arXiv:2209.12152).

    Takes x f32[B, C, H, W], t f32[B] and its conditions as tokens; returns f32[B, C_out, H, W].
    """

    kind: Literal["uvit"]
    block: Block = Field(description="the repeated block")
    time_mlp: bool = Field(False, description="two linear layers after the timestep features")
    output_conv: bool = Field(True, description="ends with a 3 x 3 convolution")
    INIT: ClassVar[str] = "normal"
    EMITTED: ClassVar[str] = "UViT"
    POSITIONS: ClassVar[tuple[str, Mapping[str, Any]]] = ("normal", {"std": 0.02})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "uvit",
        "width": 16,
        "half": 1,
        "patch": 2,
        "time_mlp": True,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "qkv_bias": False},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "affine": True, "eps": 1e-5},
            "condition": {"kind": "in_context"},
        },
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("width", "frequencies")

    def problems_of_blocks(self) -> Iterator[Problem]:
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None)

    def sizes_of_blocks(self) -> dict[str, Any]:
        return self.block.static(self.width)

    def read(self, b: Builder, x: Var, prefix: list[Var], patches: Any, sizes: Mapping[str, Any]) -> Var:
        mixer, feed_forward, norm, condition = self.block.parts()
        block, width = condition.block(mixer, feed_forward, norm, "normal"), sizes["width"]
        size, patch, out_channels = sizes["size"], sizes["patch"], sizes["out_channels"]
        x = long_skips(b, block, x, (), sizes["half"], width, self.block.own(width, sizes))[-1]
        x = dense(b, "decoder", norm.apply(b, "norm", x), patch * patch * out_channels, True, "normal", out="x")
        x = image(b, without_prefix(b, x, prefix, patches), out_channels, size // patch, patch, size, out="x")
        return conv(b, "output", x, out_channels, 3, "torch") if self.output_conv else x
