"""Conditions as tokens that blocks attend to, after the tokens of the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.blocks.cross_attention import context_attention
from latentc.components.decoding import Given
from latentc.components.parts import BlockCondition, BlockInput, BlockParts, Mix, Mixer
from latentc.ir.builder import Builder, Var


class CrossAttention(BlockCondition):
    """Pre-norm blocks with three branches: mixer, attention to the condition tokens, feed-forward.

    As in latent diffusion and RARM (Blattmann et al. 2022, arXiv:2204.11824); queries, keys and values of the second
    branch have no biases.
    """

    kind: Literal["cross_attention"]
    TAKES: ClassVar[BlockInput] = None
    OPERANDS: ClassVar[tuple[str, ...]] = ("context",)
    SHAPES: ClassVar[Mapping[str, str]] = {"context": "B L context_dim"}
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cross_attention"}

    @property
    def takes_tokens(self) -> bool:
        return True

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        return "ContextBlock", "A pre-norm transformer block whose tokens attend to those of the context, too."

    def looked_up(self, b: Builder, h: Var, given: Given, init: str, sizes: Mapping[str, Any]) -> Var:
        """Attention of h [B, T, D] to the context."""
        return b.sub("cross_attn", context_attention(init, False, True), h, given.values["context"], out="h", **sizes)

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        x = x + mix(parts.norm.apply(b, "norm1", x))
        sizes = {"dim": dim, "context_dim": static["context_dim"], "heads": static["heads"]}
        x = x + self.looked_up(b, parts.norm.apply(b, "norm2", x), given, parts.init, sizes)
        return x + parts.fed(b, parts.norm.apply(b, "norm3", x), dim, static)
