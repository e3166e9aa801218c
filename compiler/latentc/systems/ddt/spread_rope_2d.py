"""Rotary positions on a grid of fixed extent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.parts import Positions, Problem, Refusal
from latentc.ir.builder import Builder, Var, f32

ROTATION = Rope2d(kind="rope_2d")


class SpreadRope2d(Positions):
    """Rotates the channel pairs of a head by column and row in turn, which go from 0 to `span` whatever the number of
    patches (DDT, Wang et al. 2025, arXiv:2504.05741).
    """

    kind: Literal["spread_rope_2d"]
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest wavelength")
    ROTARY: ClassVar[bool] = True
    span: float = Field(16.0, gt=0, le=65_536, description="position of the last row and column; the first is at 0")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "spread_rope_2d"}

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        yield from ROTATION.problems_of_head(channels)

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        if prefix:
            message = f"`{self.kind}` has no positions for tokens before the patches"
            raise Refusal(message, "use `{kind: rope_2d}`", part=self)
        table = f32(grid * grid, head_dim // 2)
        args: dict[str, Any] = {"head_dim": head_dim, "grid": grid, "base": self.base, "span": self.span}
        return tuple(
            b.param(f"{name}_{part}", table, "rope_2d_spread", "buffer", **args, part=part) for part in ("cos", "sin")
        )
