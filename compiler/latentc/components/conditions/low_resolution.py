"""The sample itself at a lower resolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.condition import Condition, Form, GivenInput
from latentc.components.contract import Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class LowResolution(Condition):
    """The image at a resolution lower by `factor`, for super-resolution.

    Training computes it from the data as block means; requests pass it. It enters as channels concatenated to the
    state, upsampled as set by `enlarged`.
    """

    kind: Literal["low_resolution"]
    factor: int = Field(
        4, gt=1, le=64, description="downsampling factor: side of the image over side of the low resolution"
    )
    enlarged: Literal["repeated", "bilinear"] = Field(
        "repeated", description="upsampling: nearest, or interpolation between pixel centres (ADM)"
    )
    default: float | None = Field(
        None, description="default value of every pixel if a request does not pass it, 0 for none; null: required"
    )
    field: None = Field(None, description="derived from the sample")
    FORMS: ClassVar[tuple[Form, ...]] = ("map", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "low_resolution", "factor": 2}

    def shape(self, spec: Spec) -> tuple[int, int, int]:
        """[C, h, w]."""
        assert spec.data.shape is not None
        channels, height, width = spec.data.shape
        return channels, height // self.factor, width // self.factor

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a low-resolution image needs images [C, H, W], but the data has {spec.data.words}")
        elif shape[1] % self.factor or shape[2] % self.factor:
            yield Problem(("factor",), f"`factor: {self.factor}` does not divide the sides {shape[1]} and {shape[2]}")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, *self.shape(spec)), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        (channels, height, width), factor = self.shape(spec), self.factor
        image = f32(B, channels, height * factor, width * factor)

        def read(b: Builder, value: Var) -> Var:
            return b.avg_pool(value, size=factor, out="low")

        return (GivenInput(name, f32(B, channels, height, width), "x", name, stored=image, read=read),)

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Any, side: Any) -> Var:
        (low,) = operands
        if self.enlarged == "repeated":
            return b.upsample_nearest(low, factor=self.factor, out=name)
        rows, columns = (b.constant(bilinear_matrix(int(n), self.factor), out="weights") for n in low.shape[2:])
        high = b.matmul(rows, low, out="rows")
        return b.matmul(high, b.transpose(columns, perm=(1, 0)), out=name)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        axes = ("channel", "height", "width")
        return (Requested(name, "array", self.shape(spec), "f32", axes, default=self.default),)


def bilinear_matrix(side: int, factor: int) -> np.ndarray[Any, Any]:
    """f64[factor * side, side]: what enlarges `side` pixels in a row; beyond the centres at the ends they repeat."""
    centres = np.clip((np.arange(factor * side) + 0.5) / factor - 0.5, 0, side - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(side)), 0.0)
