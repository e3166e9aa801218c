"""Attention whose output projection depends on the condition."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.heads import joined_heads
from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.components.decoding import Given
from latentc.components.parts import condition_of
from latentc.ir.builder import Var
from latentc.systems.can.generated import generated_linear


class GeneratedAttention(Attention):
    """Attention whose output projection is a learned weight plus a linear map of the condition (CAN)."""

    kind: Literal["generated_attention"]  # type: ignore[assignment]
    CLASS: ClassVar[tuple[str, str]] = (
        "GeneratedAttention",
        "Multi-head self-attention, whose output projection depends on the condition c [B, E]",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "generated_attention", "heads": 2}

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def further(self, given: Given) -> tuple[Var, ...]:
        return (condition_of(self, given),)

    def projected(self, call: Call, x: Var) -> Var:
        x = joined_heads(call.b, x, self.widths(call)[1])
        body = generated_linear(self.bias, call.init)
        return self.dropped(call, call.b.sub("proj", body, x, *call.more, features=call.dim))
