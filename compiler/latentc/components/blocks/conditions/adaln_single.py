"""One modulation for all blocks, and tokens of a condition by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.blocks.cross_attention import cross_attention
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.decoding import Given
from latentc.components.parts import BlockCondition, BlockParts, Mix, Mixer, dense
from latentc.ir.builder import Builder, Var, f32


class AdalnSingle(BlockCondition):
    """One linear map of the condition provides scale, shift and gate of the branches in all blocks, plus a learned
    table per block; condition tokens enter by cross-attention in between (PixArt-alpha, Chen et al. 2023,
    arXiv:2310.00426).
    """

    kind: Literal["adaln_single"]
    OPERANDS: ClassVar[tuple[str, ...]] = ("modulation",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_single"}

    @property
    def takes_tokens(self) -> bool:
        return True

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        if masked:
            doc = "A transformer block that sees tokens where `mask` is true; `modulation` [B, 6 D] is of all blocks."
            return "MaskedSharedModulationBlock", doc
        doc = "A transformer block: `modulation` [B, 6 D] scales, shifts and gates the branches beside cross-attention."
        return "PixArtBlock", doc

    def shared(self, b: Builder, c: Var, width: Any) -> Var:
        return dense(b, "adaLN", b.silu(c), 6 * width, True, "normal", out="modulation")

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        table = b.param("scale_shift_table", f32(2, width), "normal", std=0.02)
        modulation = b.op("add", table, b.reshape(c, shape=(c.shape[0], 1, width)), out="modulation")
        shift, scale = b.split(modulation, axis=1, sizes=(1, 1), out="shift scale")
        return shift, scale

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        norm, modulation = parts.norm, given.values["modulation"]
        table = b.param("scale_shift_table", f32(6, dim), "normal", std=0.02)
        modulation = table + b.reshape(modulation, shape=(modulation.shape[0], 6, dim))
        names = "shift_msa scale_msa gate_msa shift_mlp scale_mlp gate_mlp"
        shift, scale, gate, shift2, scale2, gate2 = b.split(modulation, axis=1, sizes=(1,) * 6, out=names)
        h = mix(norm.apply(b, "norm1", x) * (scale + 1.0) + shift)
        x = x + dropped(b, gate * h, static)
        x = self.crossed(b, x, given, parts, dim, static) if given.context else x
        h = norm.apply(b, "norm2", x) * (scale2 + 1.0) + shift2
        return x + dropped(b, gate2 * parts.fed(b, h, dim, static), static)

    def crossed(self, b: Builder, x: Var, given: Given, parts: BlockParts, dim: int, static: Mapping[str, Any]) -> Var:
        """Tokens x [B, T, D] with the branch of attention to those of conditions added."""
        h = b.sub("cross_attn", cross_attention, x, *given.context, dim=dim, heads=static.get("heads", 1))
        return x + dropped(b, h, static)
