"""Gated convolutions in place of a feed-forward layer.

Symbols: B batch, T tokens of a square of side G (`grid`), D width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import FeedForward, portion
from latentc.ir.builder import Builder, Var, module_class
from latentc.systems.dc_ae.parts import gated_conv


class GatedConv(FeedForward):
    """A linear map, a depthwise 3 x 3 convolution and a gate, for a square of tokens (Mix-FFN of SANA)."""

    kind: Literal["gated_conv"]
    ratio: float = Field(2.5, gt=0, le=64, description="hidden channels as a multiple of the width")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gated_conv"}

    @property
    def spatial(self) -> bool:
        return True

    def static(self, dim: int) -> dict[str, Any]:
        return {"hidden": portion(dim, self.ratio)}

    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var:
        return b.sub(name, _forward, x, **static)


@module_class("GatedConv")
def _forward(b: Builder, x: Var, *, dim: int, hidden: int, grid: int) -> Var:
    """Gated convolutions of tokens x [B, T, D] as a square."""
    batch, tokens, _ = x.shape
    h = b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=(batch, dim, grid, grid), out="h")
    h = gated_conv(b, h, dim, hidden)
    return b.transpose(b.reshape(h, shape=(batch, dim, tokens)), perm=(0, 2, 1), out="x")
