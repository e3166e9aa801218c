"""Fixed two-dimensional sine and cosine positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Positions, Problem
from latentc.ir.builder import Builder, Var, f32

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Sincos2d(Positions):
    """Sines and cosines of row and column, added to the patches (MAE, He et al. 2021; DiT)."""

    kind: Literal["sincos_2d"]
    stored: bool = Field(False, description="checkpoints contain the table, which may then differ (PixArt)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sincos_2d"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        for network in spec.networks.values():
            width = getattr(network, "width", 4)
            if getattr(network, "positions", None) is self and width % 4:
                message = f"sincos_2d needs a width divisible by 4, not {width}"
                yield Problem((), message, f"the nearest is {max(4, round(width / 4) * 4)}")

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        table = f32(1, x.shape[1], dim)
        # First operand, because a sum has its memory layout: patches come transposed from the convolution, and
        # everything after is faster on contiguous rows.
        kind = "state" if self.stored else "buffer"
        positions = b.param("pos_embed", table, "sincos_2d", kind, width=dim, grid=grid)
        return positions + x
