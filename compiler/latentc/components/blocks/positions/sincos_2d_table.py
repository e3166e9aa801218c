"""Fixed two-dimensional positions of part of a larger table, or with closer coordinates."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.positions.sincos_2d import Sincos2d
from latentc.components.parts import Refusal
from latentc.ir.builder import Builder, Var, f32


class Sincos2dTable(Sincos2d):
    """Sines and cosines of row and column, the middle of a square table that may be larger than the grid.

    Coordinates of the table run from 0 to `extent`, whatever its side, so that a network trained at one resolution can
    be tuned at another (PixArt-alpha, Chen et al. 2023, arXiv:2310.00426; Stable Diffusion 3, Esser et al. 2024,
    arXiv:2403.03206, 5.3.2).
    """

    kind: Literal["sincos_2d_table"]  # type: ignore[assignment]
    side: int | None = Field(
        None, gt=0, le=4_096, description="rows and columns of the table; null: those of the grid of patches"
    )
    extent: float | None = Field(
        None, gt=0, le=65_536, description="rows are `extent` / `side` apart in the units of sincos_2d; null: 1 apart"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sincos_2d_table", "side": 6, "extent": 4}

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        self.check_width(dim)
        side: Any = grid if self.side is None else self.side
        if int(grid) > int(side):
            message = f"the table of positions has {int(side)} rows, but there are {int(grid)} rows of patches"
            raise Refusal(message, f"set `side` to {int(grid)} or more", ("side",), self)
        step = {} if self.extent is None else {"step": self.extent / int(side)}
        kind = "state" if self.stored else "buffer"
        positions = b.param("pos_embed", f32(1, side * side, dim), "sincos_2d", kind, width=dim, grid=side, **step)
        if self.side is not None:
            first = (side - grid) // 2
            positions = b.reshape(positions, shape=(side, side, dim), out="positions")
            for axis in (0, 1):
                positions = b.slice(positions, axis=axis, start=first, stop=first + grid, out="positions")
            positions = b.reshape(positions, shape=(1, x.shape[1], dim), out="positions")
        return positions + x
