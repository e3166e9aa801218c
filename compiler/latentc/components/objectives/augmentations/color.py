"""Brightness, saturation and contrast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.objectives.augmentations._augmentation import Augmentation, column
from latentc.ir.builder import Builder, Var


class Color(Augmentation):
    """Adds a constant, then scales the distance from the mean of each pixel's channels and from the image's mean."""

    kind: Literal["color"]
    brightness: float = Field(1.0, ge=0, le=100, description="range of the constant, around 0")
    saturation: float = Field(1.0, ge=0, le=100, description="half the range of the first factor, around 1")
    contrast: float = Field(1.0, ge=0, le=100, description="range of the second factor, around 1")
    PARAMETERS: ClassVar[tuple[str, ...]] = ("brightness", "saturation", "contrast")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "color"}

    def draws(self, height: int, width: int) -> tuple[Draw, ...]:
        return tuple(Draw(name, "uniform") for name in self.PARAMETERS)

    def changed(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> Var:
        brightness, saturation, contrast = (column(b, drawn[name], 4) for name in self.PARAMETERS)
        x = b.add(x, (brightness - 0.5) * self.brightness, out="brighter")
        grey = b.mean(x, axes=(1,), keepdims=True, out="grey")
        x = b.add((x - grey) * ((saturation * 2.0 - 1.0) * self.saturation + 1.0), grey, out="saturated")
        grey = b.mean(x, axes=(1, 2, 3), keepdims=True, out="grey")
        return b.add((x - grey) * ((contrast - 0.5) * self.contrast + 1.0), grey, out="contrasted")

    def scaled(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> tuple[Var, ...]:
        return tuple(drawn[name] for name in self.PARAMETERS)
