"""The span of time in the units in which the network takes the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.conditions.span import Span
from latentc.ir.builder import Builder, Var


class ScaledSpan(Span):
    """The length of a step, t - s, multiplied by `scale` before it is embedded (Zhou et al. 2025, arXiv:2503.07565)."""

    kind: Literal["scaled_span"]  # type: ignore[assignment]
    scale: float = Field(1000.0, gt=0, le=1_000_000, description="factor of the span, that of the network's time")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "scaled_span"}

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        scaled = b.mul(operands[0], self.scale, out="scaled")
        return super().vector(b, prefix, name, (scaled,), width, sizes)
