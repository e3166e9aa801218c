"""An autoencoder of two transformers as ViTok has it.

Symbols: B batch, C channels, T patches, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.block import Block
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.networks._query_parts import Grid
from latentc.components.networks.query_autoencoder import QueryAutoencoder
from latentc.components.parts import Positions, Problem, Spec
from latentc.ir.builder import Builder, Var, f32


class VitokAutoencoder(QueryAutoencoder):
    """A query_autoencoder with rotary positions, whose decoder may have another width (ViTok, Hansen-Estruch et al.
    2025, arXiv:2501.09755). Queries come before the patches; patches are decoded by a transposed convolution."""

    kind: Literal["vitok_autoencoder"]  # type: ignore[assignment]
    decoder_width: int | None = Field(None, gt=0, le=65_536, description="channels of a decoder token; null: `width`")
    decoder_block: Block | None = Field(None, description="block of the decoder; null: as `block`")
    rotary: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="rotary positions of every attention, along the whole sequence; null: none"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **QueryAutoencoder.EXAMPLE,
        "kind": "vitok_autoencoder",
        "rotary": {"kind": "rope_1d"},
    }

    @property
    def outward_block(self) -> Block:
        return self.decoder_block or self.block

    @property
    def outward_width(self) -> int:
        return self.decoder_width or self.width

    @property
    def final_norm(self) -> LayerNorm:
        return LayerNorm(kind="layer_norm", eps=1e-5, affine=True)

    def rotary_positions(self) -> Positions | None:
        assert self.rotary is None or isinstance(self.rotary, Positions)
        return self.rotary

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        rotary, frames = self.rotary_positions(), self.grid(spec)[0]
        if rotary is None:
            return
        if not rotary.ROTARY:
            yield Problem(("rotary",), f"`{rotary.kind}` is not rotary", "use `{kind: rope_1d}`")
        elif rotary.GRIDDED and (self.queries is not None or frames != 1):
            message = f"`{rotary.kind}` needs a square of patches"
            yield Problem(("rotary",), message, "use `{kind: rope_1d}`, or images and `tokens: null`")
        yield from self.block.problems_of_rotary(self.width, rotary=rotary)
        yield from self.outward_block.problems_of_rotary(self.outward_width, rotary=rotary)

    def read(self, b: Builder, x: Var, queries: Var) -> tuple[Var, int]:
        return b.concat(queries, x, axis=1, out="x"), 0

    def from_patches(self, b: Builder, x: Var, channels: Any, grid: Grid, kernel: Grid, space: tuple[int, ...]) -> Var:
        batch, _, width = x.shape
        fan_in = {"fan_in": channels * math.prod(kernel)}
        weight = b.param("output.weight", f32(width, channels, *kernel), "linear_default", **fan_in)
        bias = b.param("output.bias", f32(channels), "linear_default", **fan_in)
        x = b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=(batch, width, *grid), out="x")
        x = b.conv_transpose(x, weight, bias, stride=kernel, out="x")
        return x if len(space) == 3 else b.reshape(x, shape=(batch, channels, *space), out="x")
