"""Rotary positions along the sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Positions, Problem
from latentc.ir.builder import Builder, Var, f32


class Rope1d(Positions):
    """Rotates queries and keys by their position in the sequence, including condition tokens (Su et al. 2021,
    arXiv:2104.09864).
    """

    kind: Literal["rope_1d"]
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest wavelength")
    GRIDDED: ClassVar[bool] = False
    ROTARY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "rope_1d"}

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        if channels % 2:
            message = f"rope_1d rotates pairs of channels, so a head of {channels} must be even"
            yield Problem((), message, "change the width or the number of heads")

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        length = prefix + grid * grid
        table, args = f32(length, head_dim // 2), {"head_dim": head_dim, "length": length, "base": self.base}
        return tuple(
            b.param(f"{name}_{part}", table, "rope_1d", "buffer", **args, part=part) for part in ("cos", "sin")
        )
