"""Attention whose scores are not divided."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.mixers.attention import Attention
from latentc.ir.builder import Var


class T5Attention(Attention):
    """Attention whose scores are not divided by the root of a head's channels (T5, Raffel et al. 2020)."""

    kind: Literal["t5_attention"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "t5_attention", "heads": 2}

    def scale(self, q: Var) -> float | None:
        return 1.0
