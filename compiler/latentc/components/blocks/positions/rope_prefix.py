"""Rotary positions on a grid, with an axis of its own for tokens before it.

Beside rope_2d: there such tokens are turned to nothing, here they have places along a third axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Positions, Problem
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import TensorType


class RopePrefix(Positions):
    """Rotates channel pairs of a head by row, column, and position in the prefix (STARFlow, Gu et al. 2025).

    Prefix tokens are at row and column 0, grid tokens at prefix position 0; the L prefix positions are scaled to the
    side of the grid. Video frames use the prefix axis too, one position per frame.
    """

    kind: Literal["rope_prefix"]
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest wavelength")
    pairs: int = Field(8, gt=0, le=1_024, description="channel pairs rotated by the position in the prefix")
    side: int | None = Field(
        None, gt=0, le=65_536, description="side of the grid that rows and columns are scaled to; null: the actual grid"
    )
    ROTARY: ClassVar[bool] = True
    FRAMES: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "rope_prefix", "pairs": 2}

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        rest = channels - 2 * self.pairs
        if rest <= 0 or rest % 4:
            message = (
                f"a head of {channels} channels cannot be divided into {self.pairs} pairs for the "
                "prefix and equal shares for rows and columns"
            )
            yield Problem(("pairs",), message, "the head's channels minus 2 * `pairs` must be a positive multiple of 4")

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        args: dict[str, Any] = {"head_dim": head_dim, "grid": grid, "prefix": prefix}
        return self._tables(b, name, args, f32(prefix + grid * grid, head_dim // 2), grid)

    def rotary_of_frames(
        self, b: Builder, head_dim: int, grid: tuple[int, int, int], prefix: int, name: str
    ) -> tuple[Var, ...]:
        frames, rows, columns = grid
        args = {"head_dim": head_dim, "grid": rows, "prefix": prefix, "columns": columns, "frames": frames}
        table = f32(prefix + frames * rows * columns, head_dim // 2)
        return self._tables(b, name, args, table, (int(rows) * int(columns)) ** 0.5)

    def _tables(self, b: Builder, name: str, args: dict[str, Any], table: TensorType, side: Any) -> tuple[Var, ...]:
        args |= {"base": self.base, "pairs": self.pairs, "side": self.side or side}
        return tuple(
            b.param(f"{name}_{part}", table, "rope_prefix", "buffer", **args, part=part) for part in ("cos", "sin")
        )
