"""Positions that are both added to the patches and rotate queries and keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.blocks.positions.sincos_2d import Sincos2d
from latentc.components.parts import Positions, Problem
from latentc.ir.builder import Builder, Var


class SincosRope2d(Positions):
    """`sincos_2d` added to the patches, and `rope_2d` in every attention (LightningDiT, Yao et al. 2025)."""

    kind: Literal["sincos_rope_2d"]
    ROTARY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sincos_rope_2d"}

    def check_width(self, dim: int) -> None:
        """Refusal: sines and cosines of rows and columns do not fill so many channels."""
        Sincos2d.check_width(self, dim)  # type: ignore[arg-type]

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        yield from Rope2d(kind="rope_2d").problems_of_head(channels)

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        self.check_width(dim)
        return Sincos2d(kind="sincos_2d").add(b, x, dim, grid)

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        return Rope2d(kind="rope_2d").rotary(b, head_dim, grid, prefix, name)
