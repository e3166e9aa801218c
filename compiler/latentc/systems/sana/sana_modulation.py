"""One modulation for all blocks, and cross-attention with heads of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.conditions.adaln_single import AdalnSingle
from latentc.components.blocks.cross_attention import cross_attention
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.decoding import Given
from latentc.components.parts import BlockParts, Mix, Mixer
from latentc.ir.builder import Builder, Var, f32


class SanaModulation(AdalnSingle):
    """As `adaln_single`, with another number of heads in cross-attention than in the mixer (SANA, Xie et al. 2024,
    arXiv:2410.10629).
    """

    kind: Literal["sana_modulation"]  # type: ignore[assignment]
    cross_heads: int = Field(gt=0, le=1_024, description="heads of the attention to condition tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sana_modulation", "cross_heads": 2}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        cls, doc = super().names(mixer, masked)
        return cls.replace("PixArt", "Sana"), doc

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        norm, modulation = parts.norm, given.values["modulation"]
        table = b.param("scale_shift_table", f32(6, dim), "normal", std=0.02)
        modulation = table + b.reshape(modulation, shape=(modulation.shape[0], 6, dim))
        names = "shift_msa scale_msa gate_msa shift_mlp scale_mlp gate_mlp"
        shift, scale, gate, shift2, scale2, gate2 = b.split(modulation, axis=1, sizes=(1,) * 6, out=names)
        x = x + dropped(b, gate * mix(norm.apply(b, "norm1", x) * (scale + 1.0) + shift), static)
        if given.context:
            x = x + b.sub("cross_attn", cross_attention, x, *given.context, dim=dim, heads=self.cross_heads)
        h = norm.apply(b, "norm2", x) * (scale2 + 1.0) + shift2
        return x + dropped(b, gate2 * parts.fed(b, h, dim, static), static)
