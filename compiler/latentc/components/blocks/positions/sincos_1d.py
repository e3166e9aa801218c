"""Fixed positions of a sequence."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.positions.learned import Learned
from latentc.ir.builder import Builder, Var, f32


class Sincos1d(Learned):
    """Sines, then cosines, of the position in the sequence, added to the input (Vaswani et al. 2017; LARP)."""

    kind: Literal["sincos_1d"]  # type: ignore[assignment]
    base: float = Field(10000.0, gt=1, le=1e12, description="longest period, over 2 pi")
    stored: bool = Field(False, description="checkpoints contain the table, which may then differ (LARP)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sincos_1d"}

    def _table(self, b: Builder, length: Any, dim: int) -> Var:
        of = {"width": dim, "length": length, "base": self.base}
        kind = "state" if self.stored else "buffer"
        return b.param("pos_embed", f32(1, length, dim), "sincos_1d", kind, **of)
