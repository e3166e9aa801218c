"""Attention whose projections have low-rank adapters."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.ir.builder import Var
from latentc.systems.ppap.low_rank import LowRank


class AdaptedAttention(Attention):
    """Attention with low-rank adapters of its query, key, value and output projections (PPAP, Go et al. 2022)."""

    kind: Literal["adapted_attention"]  # type: ignore[assignment]
    adapter: LowRank = Field(LowRank(), description="rank and scale of the adapters")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adapted_attention", "heads": 2}

    def layer(self, call: Call, name: str, x: Var, features: Any, bias: bool, out: str) -> Var:
        return self.adapter.dense(call.b, name, x, features, bias, call.init, out)
