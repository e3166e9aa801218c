"""Shared by networks whose blocks decide how tokens of conditions enter."""

from __future__ import annotations

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.blocks.block import Block
from latentc.components.condition import Condition, Form


class ToldBlocks(Backbone):
    """A network of equal blocks, which takes tokens of conditions if the blocks attend to them."""

    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    block: Block = Field(description="the repeated block")

    def form_of(self, condition: Condition) -> Form | None:
        form = super().form_of(condition)
        return None if form == "tokens" and not self.block.parts()[3].takes_tokens else form


__all__ = ["ToldBlocks"]
