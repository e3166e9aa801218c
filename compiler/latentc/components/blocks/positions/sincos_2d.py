"""Fixed two-dimensional sine and cosine positions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Positions, Refusal
from latentc.ir.builder import Builder, Var, f32


class Sincos2d(Positions):
    """Sines and cosines of row and column, added to the patches (MAE, He et al. 2021; DiT)."""

    kind: Literal["sincos_2d"]
    stored: bool = Field(False, description="checkpoints contain the table, which may then differ (PixArt)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sincos_2d"}

    def check_width(self, dim: int) -> None:
        """Refusal: sines and cosines of rows and columns do not fill so many channels."""
        if int(dim) % 4:
            message = f"{self.kind} needs a width divisible by 4, not {int(dim)}"
            raise Refusal(message, f"the nearest is {max(4, round(dim / 4) * 4)}", part=self)

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        self.check_width(dim)
        table = f32(1, x.shape[1], dim)
        # First operand, because a sum has its memory layout: patches come transposed from the convolution, and
        # everything after is faster on contiguous rows.
        kind = "state" if self.stored else "buffer"
        positions = b.param("pos_embed", table, "sincos_2d", kind, width=dim, grid=grid)
        return positions + x
