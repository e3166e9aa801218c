"""One modulation for all blocks, and attention to a text after a norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.conditions.adaln_single import AdalnSingle
from latentc.components.blocks.cross_attention import context_attention
from latentc.components.decoding import Given
from latentc.components.parts import BlockParts, Mixer, TokenNorm
from latentc.ir.builder import Builder, Var


class TextModulation(AdalnSingle):
    """As `adaln_single`, with a norm before the attention to condition tokens of any width (Infinity, Han et al. 2024,
    arXiv:2412.04431).
    """

    kind: Literal["text_modulation"]  # type: ignore[assignment]
    text_norm: Annotated[Component, OneOf("blocks/norms", base=TokenNorm)] = Field(
        description="norm before the attention to condition tokens"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "text_modulation", "text_norm": {"kind": "layer_norm"}}

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        cls, doc = super().names(mixer, masked)
        return cls.replace("SharedModulation", "TextModulation").replace("PixArt", "TextModulation"), doc

    def crossed(self, b: Builder, x: Var, given: Given, parts: BlockParts, dim: int, static: Mapping[str, Any]) -> Var:
        norm, (context, *masks) = self.text_norm, given.context
        assert isinstance(norm, TokenNorm)
        sizes = {"dim": dim, "context_dim": context.shape[2], "heads": static.get("heads", 1)}
        body = context_attention(parts.init, True, True, masked=bool(masks))
        return x + b.sub("cross_attn", body, norm.apply(b, "cross_norm", x), context, *masks, out="h", **sizes)
