"""Rotary positions on a grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Positions, Problem
from latentc.ir.builder import Builder, Var, f32


class Rope2d(Positions):
    """Rotates half of a head's channel pairs by the row and half by the column (LlamaGen, after Su et al. 2021)."""

    kind: Literal["rope_2d"]
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest wavelength")
    first: Literal["row", "column"] = Field(
        "row", description="position that rotates the first half of the channels (diffusers: column)"
    )
    ROTARY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "rope_2d"}

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        if channels % 4:
            message = (
                f"rope_2d rotates pairs of channels along two axes, so a head of {channels} must be divisible by 4"
            )
            yield Problem((), message, "change the width or the number of heads")

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        table = f32(prefix + grid * grid, head_dim // 2)
        args: dict[str, Any] = {"head_dim": head_dim, "grid": grid, "prefix": prefix, "base": self.base}
        args |= {"first": "column"} if self.first == "column" else {}
        return tuple(
            b.param(f"{name}_{part}", table, "rope_2d", "buffer", **args, part=part) for part in ("cos", "sin")
        )
