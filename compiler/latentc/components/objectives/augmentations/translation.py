"""Shifts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.objectives.augmentations._augmentation import Augmentation, column, one_hot
from latentc.ir.builder import Builder, Var


class Translation(Augmentation):
    """Shifts images by whole pixels, independently along rows and columns; zeros come in."""

    kind: Literal["translation"]
    ratio: float = Field(0.125, gt=0, le=1, description="largest shift, as a part of the side")
    PARAMETERS: ClassVar[tuple[str, ...]] = ("row_shift", "column_shift")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "translation", "ratio": 0.25}

    def most(self, side: int) -> int:
        """The largest shift in pixels."""
        return int(side * self.ratio + 0.5)

    def draws(self, height: int, width: int) -> tuple[Draw, ...]:
        sides = zip(self.PARAMETERS, (height, width), strict=True)
        return tuple(Draw(name, "integers", {"high": 2 * self.most(side) + 1}) for name, side in sides)

    def changed(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> Var:
        rows, columns = (
            self._moved(b, drawn[n], int(side)) for n, side in zip(self.PARAMETERS, x.shape[2:], strict=True)
        )
        return b.matmul(b.matmul(rows, x), b.transpose(columns, perm=(0, 1, 3, 2)), out="shifted")

    def _moved(self, b: Builder, drawn: Var, side: int) -> Var:
        """f32[B, 1, side, side], the matrix by which a side is shifted: output i is input i + shift."""
        shift = column(b, drawn, 3) - self.most(side)
        places = b.reshape(b.arange(side), shape=(1, side, 1)) + shift
        return b.reshape(one_hot(b, places, side), shape=(drawn.shape[0], 1, side, side), out="shift")

    def scaled(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> tuple[Var, ...]:
        sides = zip(self.PARAMETERS, x.shape[2:], strict=True)
        return tuple(b.cast(drawn[n], to="f32") * (0.5 / max(self.most(int(side)), 1)) for n, side in sides)
