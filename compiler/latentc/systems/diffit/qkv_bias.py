"""Blocks whose condition enters inside attention, as a shift of queries, keys and values.

Symbols: B batch, D width, E size of the condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.mixers.windows import Windows
from latentc.components.decoding import Given
from latentc.components.layers import conv, group_norm
from latentc.components.parts import BlockCondition, BlockParts, Mix, Mixer, Refusal, a_divisor
from latentc.ir.builder import Builder, Var
from latentc.systems.diffit.time_attention import TimeAttention


class QkvBias(BlockCondition):
    """Pre-norm residual blocks of `time_attention` (DiffiT, Hatamizadeh et al. 2024, arXiv:2312.02139)."""

    kind: Literal["qkv_bias"]
    convolution_groups: int | None = Field(
        None,
        gt=0,
        le=1_024,
        description="precedes the block by a 3 x 3 convolution of SiLU of a GroupNorm with this many groups, with a "
        "shortcut around both (the paper's residual cell of image-space models, equations 9 and 10); null: neither",
    )
    OPERANDS: ClassVar[tuple[str, ...]] = ("c",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "qkv_bias"}

    @property
    def spatial(self) -> bool:
        return self.convolution_groups is not None

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        doc = "A pre-norm transformer block whose queries, keys and values depend on the condition c [B, E]."
        return "MaskedDiffiTBlock" if masked else "DiffiTBlock", doc

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        groups, norm, shortcut, mixer = self.convolution_groups, parts.norm, x, parts.mixer
        if not isinstance(mixer.mixer if isinstance(mixer, Windows) else mixer, TimeAttention):
            message = f"`{self.kind}` adds the condition inside the mixer, but `{mixer.kind}` takes none"
            raise Refusal(message, "use the mixer `time_attention`, or the condition `{kind: adaln_zero}`", part=self)
        if groups is not None:
            if dim % groups:
                message = f"{groups} groups do not divide {int(dim)} channels"
                raise Refusal(message, a_divisor(int(dim)), ("convolution_groups",), self)
            h = group_norm(b, "norm0", as_map(b, x, static["grid"]), groups, 1e-5, out="h")
            x = as_tokens(b, conv(b, "conv", b.silu(h, out="h"), dim, 3, parts.init, out="h"), shortcut.shape[1])
        x = x + mix(norm.apply(b, "norm1", x))
        x = x + parts.fed(b, norm.apply(b, "norm2", x), dim, static, given=given)
        return x if groups is None else shortcut + x
