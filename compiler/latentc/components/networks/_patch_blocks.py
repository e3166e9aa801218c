"""Shared by networks of equal blocks."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.blocks.block import Block
from latentc.components.condition import Condition, Form
from latentc.components.parts import Spec


class TokenBlocks(Backbone):
    """A network of equal blocks over tokens."""

    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    block: Block = Field(description="the repeated block")

    def block_sizes(self) -> dict[str, Any]:
        """The static arguments of a network that its blocks follow from."""
        return {"width": self.width, "depth": self.depth, **self.block.static(self.width)}


class PatchBlocks(TokenBlocks):
    """Blocks over patches, which take tokens of conditions if they attend to them."""

    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels of the network's input (P)")

    def static_of_square(self, spec: Spec, out_channels: int) -> dict[str, Any]:
        """The static arguments of a network over the patches of a square array."""
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        return {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            **self.block_sizes(),
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }

    def form_of(self, condition: Condition) -> Form | None:
        form = super().form_of(condition)
        return None if form == "tokens" and not self.block.parts()[3].takes_tokens else form
