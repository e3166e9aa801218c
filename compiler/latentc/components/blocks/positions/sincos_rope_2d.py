"""Positions that are both added to the patches and rotate queries and keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.blocks.positions.sincos_2d import Sincos2d
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var

ROTATION = Rope2d(kind="rope_2d")


class SincosRope2d(Sincos2d):
    """`sincos_2d` added to the patches, and `rope_2d` in every attention (LightningDiT, Yao et al. 2025)."""

    kind: Literal["sincos_rope_2d"]  # type: ignore[assignment]
    ROTARY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sincos_rope_2d"}

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        yield from ROTATION.problems_of_head(channels)

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        return ROTATION.rotary(b, head_dim, grid, prefix, name)
