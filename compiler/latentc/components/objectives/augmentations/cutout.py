"""Holes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.objectives.augmentations._augmentation import Augmentation, column
from latentc.ir.builder import Builder, Var


class Cutout(Augmentation):
    """Sets a rectangle to zero, whose centre may be anywhere in the image."""

    kind: Literal["cutout"]
    ratio: float = Field(0.5, gt=0, le=1, description="sides of the rectangle, as a part of the image's")
    PARAMETERS: ClassVar[tuple[str, ...]] = ("cut_row", "cut_column")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cutout"}

    def size(self, side: int) -> int:
        """The rectangle's side in pixels."""
        return int(side * self.ratio + 0.5)

    def draws(self, height: int, width: int) -> tuple[Draw, ...]:
        sides = zip(self.PARAMETERS, (height, width), strict=True)
        return tuple(Draw(name, "integers", {"high": side + 1 - self.size(side) % 2}) for name, side in sides)

    def changed(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> Var:
        height, width = (
            self._covered(b, drawn[n], int(side)) for n, side in zip(self.PARAMETERS, x.shape[2:], strict=True)
        )
        hole = b.mul(
            b.reshape(height, shape=(x.shape[0], 1, x.shape[2], 1)),
            b.reshape(width, shape=(x.shape[0], 1, 1, x.shape[3])),
            out="hole",
        )
        return b.mul(x, 1.0 - hole, out="cut")

    def _covered(self, b: Builder, drawn: Var, side: int) -> Var:
        """f32[B, side]: 1 where the rectangle covers a place."""
        size = self.size(side)
        place = b.arange(side) - (column(b, drawn, 2) - size // 2)
        inside = b.cast(b.less(place, size), to="f32") * b.cast(b.less(-1, place), to="f32")
        return b.mul(inside, 1.0, out="covered")

    def scaled(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> tuple[Var, ...]:
        sides = ((n, int(side)) for n, side in zip(self.PARAMETERS, x.shape[2:], strict=True))
        return tuple(b.cast(drawn[n], to="f32") * (1.0 / (side - self.size(side) % 2)) for n, side in sides)
