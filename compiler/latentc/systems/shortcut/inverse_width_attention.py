"""Attention whose scores are divided by the channels of a head, not by their square root."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.mixers.attention import Attention, Call
from latentc.ir.builder import Var


class InverseWidthAttention(Attention):
    """softmax(q k^T / d) v over H heads of d channels, as maximal update parametrization has it (Yang et al. 2022,
    arXiv:2203.03466).
    """

    kind: Literal["inverse_width_attention"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "inverse_width_attention", "heads": 2}

    def heads_of(self, call: Call, x: Var) -> tuple[Var, Var, Var]:
        q, k, v = super().heads_of(call, x)
        size, _ = self.widths(call)
        return call.b.div(q, call.b.sqrt(call.b.scalar(size, q), out="root"), out="q"), k, v  # the op divides as well
