"""Learned absolute positions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Positions
from latentc.ir.builder import Builder, Var, f32


class Learned(Positions):
    """A learned vector per position, added to the input (ViT, Dosovitskiy et al. 2020)."""

    kind: Literal["learned"]
    spare: int = Field(
        0,
        ge=0,
        le=65_536,
        description="additional position vectors that checkpoints contain after those of the sequence (minGPT: 1)",
    )
    GRIDDED: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "learned"}

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        return self.vectors(b, 0, x.shape[1], x.shape[1], dim) + x  # in this order: see sincos_2d

    def _table(self, b: Builder, length: Any, dim: int) -> Var:
        """f32[1, length, dim]"""
        return b.param("pos_embed", f32(1, length, dim), "normal", std=0.02)

    def vectors(self, b: Builder, start: int, stop: Any, length: Any, dim: int) -> Var:
        """f32[1, stop - start, dim]: those of the places from `start` to `stop` of a sequence of this length."""
        table = self._table(b, length + self.spare if self.spare else length, dim)
        whole = not start and not self.spare and int(stop) == int(length)
        return table if whole else b.slice(table, axis=1, start=start, stop=stop, out="positions")

    def vector_at(self, b: Builder, position: Var, length: Any, dim: int) -> Var:
        """f32[1, 1, dim]: that of one place, i64[], of a sequence of this length."""
        table = self._table(b, length + self.spare if self.spare else length, dim)
        return b.reshape(b.take(table, position, axis=1), shape=(1, 1, dim))
