"""Linear attention whose output projection and convolution depend on the condition (CaT).

Symbols: B batch, T tokens, D width, E size of the condition, H heads, d channels of a head.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.feature_map import as_tokens
from latentc.components.decoding import Given
from latentc.components.parts import condition_of
from latentc.ir.builder import Builder, Var
from latentc.systems.can.generated import generated_depthwise, generated_linear
from latentc.systems.lit.linear_attention import LinearAttention


class GeneratedLinearAttention(LinearAttention):
    """Linear attention whose output projection and kernel are learned weights plus linear maps of the condition (CAN).

    Each head has its own kernel.
    """

    kind: Literal["generated_linear_attention"]  # type: ignore[assignment]
    CLASS: ClassVar[tuple[str, str]] = (
        "GeneratedLinearAttention",
        "Linear attention, whose output projection and convolution depend on the condition c [B, E].",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "generated_linear_attention", "heads": 2, "kernel": 3}

    def further(self, given: Given) -> tuple[Var, ...]:
        return (condition_of(self, given),)

    def convolved(self, b: Builder, v: Var, c: tuple[Var, ...], dim: int, heads: int, grid: int) -> Var:
        batch, _, tokens, _ = v.shape
        square = b.reshape(b.transpose(v, perm=(0, 1, 3, 2)), shape=(batch, dim, grid, grid), out="h")
        return as_tokens(b, b.sub("dwc", generated_depthwise(self.kernel), square, *c, channels=dim), tokens)

    def projected(self, b: Builder, x: Var, c: tuple[Var, ...], dim: int, init: str) -> Var:
        return b.sub("proj", generated_linear(True, init), x, *c, features=dim)
