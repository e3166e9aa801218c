"""The sample itself with a hole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Derived, Form, GivenInput
from latentc.components.contract import Draw, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class MaskedImage(Derived):
    """The known part of an image and a mask that is 1 there and 0 in the hole, for inpainting.

    Training hides each of `tiles` x `tiles` tiles of the data with probability `hidden`; requests pass the image, and
    the mask as `NAME_mask`. Both enter as channels concatenated to the state.
    """

    kind: Literal["masked_image"]
    tiles: int = Field(8, gt=0, le=1_024, description="tiles per side for random masks; must divide the sides")
    hidden: float = Field(0.3, gt=0, lt=1, description="probability of hiding a tile, in training")
    FORMS: ClassVar[tuple[Form, ...]] = ("map", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_image", "tiles": 2}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a masked image needs images [C, H, W], but the data has {spec.data.words}")
        elif shape[1] != shape[2] or shape[1] % self.tiles:
            yield Problem(("tiles",), f"`tiles: {self.tiles}` does not divide the sides {shape[1]} and {shape[2]}")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        channels, height, width = spec.data.shape or (1, 1, 1)
        image, mask = f32(B, channels, height, width), f32(B, 1, height, width)
        return Port(name, image, "condition"), Port(f"{name}_mask", mask, "condition")

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        image, mask = self.ports(name, spec)
        draw, tiles = Draw(mask.name, "uniform"), f32(B, 1, self.tiles, self.tiles)
        factor = int(mask.type.shape[2]) // self.tiles  # type: ignore[arg-type]

        def read(b: Builder, value: Var) -> Var:
            known = 1.0 - b.cast(b.less(value, self.hidden), to="f32", out="hidden")
            return b.upsample_nearest(known, factor=factor, out="known") if factor > 1 else known

        return (
            GivenInput(image.name, image.type, "x", name),
            GivenInput(mask.name, mask.type, "", mask.name, draw=draw, stored=tiles, read=read),
        )

    def operands(self, b: Builder, name: str, given: tuple[Var, ...], networks: Any) -> tuple[Var, ...]:
        image, mask = given
        return b.op("mul", image, mask, out=name), mask

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Any, side: Any) -> Var:
        return b.concat(*operands, axis=1, out=name)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        axes = ("channel", "height", "width")
        return tuple(
            Requested(port.name, "array", tuple(int(d) for d in port.type.shape[1:]), "f32", axes)  # type: ignore[arg-type]
            for port in self.ports(name, spec)
        )
