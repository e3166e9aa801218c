"""One modulation for all blocks, and cross-attention with heads of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.conditions.adaln_single import AdalnSingle
from latentc.components.blocks.cross_attention import cross_attention
from latentc.components.decoding import Given
from latentc.components.parts import BlockParts, Mixer
from latentc.ir.builder import Builder, Var


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

    def crossed(self, b: Builder, x: Var, given: Given, parts: BlockParts, dim: int, static: Mapping[str, Any]) -> Var:
        return x + b.sub("cross_attn", cross_attention, x, *given.context, dim=dim, heads=self.cross_heads)
