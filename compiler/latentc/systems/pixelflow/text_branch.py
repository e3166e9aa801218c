"""AdaLN-Zero with a branch of attention to the tokens of conditions.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.blocks.cross_attention import context_attention
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.decoding import Given
from latentc.components.parts import BlockParts, Norm, TokenNorm
from latentc.ir.builder import Builder, Var


class TextBranch(Closed):
    """A branch between the mixer and the feed-forward: tokens attend to those of conditions, not modulated.

    Rotary tables rotate its queries as they do the mixer's, but not its keys.
    """

    norm: Annotated[Component, OneOf("blocks/norms", base=TokenNorm)] = Field(description="norm before each branch")
    qk_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm of queries and keys, over all heads at once; null: none"
    )
    bias: bool = Field(True, description="biases of the projections")


class AdalnText(AdalnZero):
    """AdaLN-Zero with two norms, and attention to the tokens of conditions (PixelFlow, Chen et al. 2025)."""

    kind: Literal["adaln_text"]  # type: ignore[assignment]
    feed_forward_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm before the feed-forward; null: as `norm`"
    )
    text: TextBranch | None = Field(
        None, description="condition tokens enter through a separate attention branch; null: they cannot enter"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_text"}

    @property
    def takes_tokens(self) -> bool:
        return self.text is not None

    def second_norm(self, norm: Norm) -> Norm:
        return super().second_norm(self.feed_forward_norm if isinstance(self.feed_forward_norm, Norm) else norm)

    def crossed(self, b: Builder, x: Var, given: Given, parts: BlockParts, dim: int, static: Mapping[str, Any]) -> Var:
        text, tokens = self.text, given.context
        if not tokens:
            return x
        assert text is not None and isinstance(text.norm, Norm)
        norm = text.qk_norm if isinstance(text.qk_norm, Norm) else None
        body = context_attention(parts.init, text.bias, text.bias, norm, len(tokens) > 1)
        sizes = {"dim": dim, "context_dim": tokens[0].shape[2], "heads": static.get("heads", 1)}
        h = text.norm.apply(b, "cross_norm", x)
        return x + dropped(b, b.sub("cross_attn", body, h, *tokens, *given.rotary, out="h", **sizes), static)
