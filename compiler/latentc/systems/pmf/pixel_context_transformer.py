"""pMF's transformer: that of improved MeanFlow on large patches of pixels, whose heads make images.

Symbols: B batch, C channels, T patches, L condition tokens, D width, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.layers import patch_conv
from latentc.components.parts import Spec, dense
from latentc.ir.builder import Builder, Var, f32
from latentc.systems.improved_mean_flow.context_transformer import ContextTransformer
from latentc.systems.pmf.pixel_path import LEAST


class PixelContextTransformer(ContextTransformer):
    """A context_transformer whose heads make images (pMF, arXiv:2601.22158).

    With F the image that a head makes of x at time t, it returns the velocity (x - F) / max(t, 0.05), with the data at
    time 0. Patches pass a bottleneck; every token has a learned position, and patches are also rotated.
    """

    kind: Literal["pixel_context_transformer"]  # type: ignore[assignment]
    bottleneck: int = Field(128, gt=0, le=65_536, description="channels between the two linear maps of a patch")
    positions: Rope2d = Field(
        Rope2d(kind="rope_2d"), description="rotary positions of the patches; condition tokens are not rotated"
    )
    EMITTED: ClassVar[str] = "PixelContextTransformer"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{name: value for name, value in ContextTransformer.EXAMPLE.items() if name != "positions"},
        "kind": "pixel_context_transformer",
        "bottleneck": 4,
    }

    def sizes(self, spec: Spec, out_channels: int) -> dict[str, Any]:
        return {**super().sizes(spec, out_channels), "bottleneck": self.bottleneck}

    def embedded(self, b: Builder, x: Var, tokens: Any, static: Mapping[str, Any]) -> Var:
        bottleneck = static["bottleneck"]
        h = patch_conv(b, "x_embedder.proj1", x, bottleneck, static["patch"], "xavier_matrix")
        h = b.transpose(b.reshape(h, shape=(h.shape[0], bottleneck, tokens)), perm=(0, 2, 1), out="x")
        return dense(b, "x_embedder.proj2", h, static["width"], True, "xavier", out="x")

    def placed(self, b: Builder, prefix: list[Var], x: Var, grid: Any) -> Var:
        length, width = sum(int(part.shape[1]) for part in prefix) + grid * grid, x.shape[2]
        x = b.concat(*prefix, x, axis=1, out="x") if prefix else x
        return b.add(x, b.param("pos_embed", f32(1, length, width), "normal", std=0.02), out="x")

    def rotary(self, b: Builder, channels: Any, grid: Any, context: int) -> tuple[Var, ...]:
        tables = super().rotary(b, channels, grid, 0)
        if not context:
            return tables
        return tuple(
            b.pad(table, axis=0, before=context, after=0, value=value, out=out)
            for table, value, out in zip(tables, (1.0, 0.0), ("cos", "sin"), strict=True)
        )

    def predicted(self, b: Builder, name: str, made: Var, x: Var, t: Var) -> Var:
        divisor = b.reshape(b.clamp(t, low=LEAST, high=1.0), shape=(t.shape[0], 1, 1, 1), out="divisor")
        return b.div(b.op("sub", x, made), divisor, out=name)
