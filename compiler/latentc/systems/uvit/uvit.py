"""U-ViT: a transformer over patches, time and conditions as tokens, with long skip connections.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.block import Block
from latentc.components.blocks.unet.layers import conv
from latentc.components.condition import Entry, TimeFeatures
from latentc.components.kit.patches import embedded_patches, image
from latentc.components.networks._one_sequence import OneSequence
from latentc.components.networks._stages import long_skips
from latentc.components.parts import Problem, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.ir.types import Named


class Uvit(OneSequence):
    """U-ViT (Bao et al. 2022, arXiv:2209.12152).

    Takes x f32[B, C, H, W], t f32[B] and its conditions as tokens; returns f32[B, C_out, H, W].
    """

    kind: Literal["uvit"]
    block: Block = Field(description="the repeated block")
    time_mlp: bool = Field(False, description="two linear layers after the timestep features")
    output_conv: bool = Field(True, description="ends with a 3 x 3 convolution")
    INIT: ClassVar[str] = "normal"
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

    def body(self, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
        return _network(self, time, entries)


@cache
def _network(config: Uvit, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, "normal")

    @module_class("UViT", x="B channels size size")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        half: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        grid = size // patch
        patches = Named(int(grid * grid), "T", "grid ** 2")
        x = embedded_patches(b, "x_embedder", x, width, patch, "linear_default", patches)
        tokens = config.prefix(b, time, t, entries, conditions, width, static)
        extras = sum(token.shape[1] for token in tokens)
        x = b.concat(*tokens, x, axis=1, out="x")
        x = x + b.param("positions", f32(1, grid**2 + extras, width), "normal", std=0.02)
        x = long_skips(b, block, x, (), half, width, config.block.own(width, static))[-1]
        x = dense(b, "decoder", norm.apply(b, "norm", x), patch * patch * out_channels, True, "normal", out="x")
        x = b.slice(x, axis=1, start=extras, stop=patches + extras, out="x")
        x = image(b, x, out_channels, grid, patch, size, out="x")
        return conv(b, "output", x, out_channels, 3, "torch") if config.output_conv else x

    return forward


__all__ = ["Uvit"]
