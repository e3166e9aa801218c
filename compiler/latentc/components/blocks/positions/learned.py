"""Learned absolute positions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.parts import Positions
from latentc.ir.builder import Builder, Var, f32


class Learned(Positions):
    """A learned vector for each position, added to the input (ViT, Dosovitskiy et al. 2020)."""

    kind: Literal["learned"]
    GRIDDED: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "learned"}

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        return b.param("pos_embed", f32(1, x.shape[1], dim), "normal", std=0.02) + x  # in this order: see sincos_2d
